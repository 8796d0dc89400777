"""The pairwise sigmoid objective of SigLIP, as a pure function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from clipkit.functional.contrastive import both_or_none, positives, similarities
from clipkit.functional.strips import at_once, pair_losses

__all__ = ["sigmoid_loss", "sigmoid_loss_rows"]

AT_ONCE = 2**18
"""As for InfoNCE; strips save fewer of its operations, as they make its gradients with its value."""


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    concept: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Binary cross-entropy of every pair on its own, summed and divided by B (SigLIP, arXiv 2303.15343, algorithm 1).

    Args:
        image: (B, D), normalised.
        text: (B, D), normalised.
        logit_scale: Scalar or (1,), already exponentiated.
        logit_bias: Scalar or (1,).
        concept: (B,) ids; pairs with equal ids are labelled +1, all others -1. ``None``: only the diagonal is +1.
        tile: As for :func:`clipkit.functional.info_nce`.

    Returns:
        Scalar loss in nats, at least in fp32.

    Raises:
        ArgumentError: For a tile of no rows.
    """
    return sigmoid_loss_rows(image, text, logit_scale, logit_bias, concept=concept, all_concepts=concept, tile=tile)


def sigmoid_loss_rows(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    concept: Tensor | None = None,
    all_concepts: Tensor | None = None,
    offset: int = 0,
    tile: int | None = None,
) -> Tensor:
    """The share of the sigmoid loss of a rank with some image rows (B, D) and all texts (N, D).

    Arguments as in :func:`sigmoid_loss` and :func:`clipkit.functional.contrastive.info_nce_rows`; the mean of the
    shares over ranks is the loss of the whole batch.

    Raises:
        ArgumentError: For a tile of no rows, or ids of one side alone.
    """
    concepts = both_or_none(concept, all_concepts)
    if not at_once(image, text, tile, AT_ONCE):
        return pair_losses(image, text, logit_scale, logit_bias, concepts, offset, tile) / len(image)
    if concepts is None:
        every = torch.arange(len(text), device=text.device)
        concepts = every[offset : offset + len(image)], every
    logits = logit_scale * similarities(image, text) + logit_bias  # (B, N)
    signs = 2 * positives(*concepts).to(logits.dtype) - 1
    return -logsigmoid(signs * logits).sum() / len(image)
