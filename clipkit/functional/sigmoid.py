"""The pairwise sigmoid objective of SigLIP, as a pure function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from clipkit.functional.contrastive import positives, similarities

__all__ = ["sigmoid_loss", "sigmoid_loss_rows"]


def sigmoid_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, *, concept: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of every pair on its own, summed and divided by B (SigLIP, arXiv 2303.15343, algorithm 1).

    Args:
        image: (B, D), normalised.
        text: (B, D), normalised.
        logit_scale: Scalar or (1,), already exponentiated.
        logit_bias: Scalar or (1,).
        concept: (B,) ids; pairs with equal ids are labelled +1, all others -1. ``None``: only the diagonal is +1.

    Returns:
        Scalar loss in nats, at least in fp32.
    """
    return sigmoid_loss_rows(image, text, logit_scale, logit_bias, concept=concept, all_concepts=concept)


def sigmoid_loss_rows(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    concept: Tensor | None = None,
    all_concepts: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """The share of the sigmoid loss of a rank with some image rows (B, D) and all texts (N, D).

    Arguments as in :func:`sigmoid_loss` and :func:`clipkit.functional.contrastive.info_nce_rows`; the mean of the
    shares over ranks is the loss of the whole batch.
    """
    if concept is None or all_concepts is None:
        concept = torch.arange(image.shape[0], device=image.device) + offset
        all_concepts = torch.arange(text.shape[0], device=text.device)
    logits = logit_scale * similarities(image, text) + logit_bias  # (B, N)
    signs = 2 * positives(concept, all_concepts).to(logits.dtype) - 1
    return -logsigmoid(signs * logits).sum() / image.shape[0]
