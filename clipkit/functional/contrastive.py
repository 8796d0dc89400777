"""InfoNCE, the objective of CLIP, as a pure function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["info_nce", "info_nce_rows", "positives", "similarities"]


def info_nce(image: Tensor, text: Tensor, logit_scale: Tensor, *, concept: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs.

    Cross-entropy of the scaled cosine similarities against the matching pair, averaged over both directions (CLIP,
    arXiv 2103.00020, figure 3). With ``concept`` the target is uniform over all rows with an equal id.

    Args:
        image: (B, D), normalised.
        text: (B, D), normalised.
        logit_scale: Scalar or (1,), already exponentiated.
        concept: (B,) ids; ``None`` makes each row its own only positive.

    Returns:
        Scalar loss in nats, at least in fp32; ln B is what knowing nothing costs.
    """
    return info_nce_rows(image, text, logit_scale, concept=concept, all_concepts=concept)


def info_nce_rows(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    *,
    concept: Tensor | None = None,
    all_concepts: Tensor | None = None,
    offset: int = 0,
    join: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The share of InfoNCE that a rank with some image rows and all texts computes.

    No rank holds more than its own (B, N) block: the log-sum-exp of each column is completed across ranks by ``join``.
    The mean of the shares over ranks is ``info_nce`` of the whole batch, in value and, once gradients are averaged, in
    every gradient.

    Args:
        image: (B, D), this rank's rows, normalised.
        text: (N, D), the texts of all ranks in rank order, normalised.
        logit_scale: Scalar or (1,), already exponentiated.
        concept: (B,) ids of the image rows.
        all_concepts: (N,) ids of the texts.
        offset: Column of this rank's first own text.
        join: This rank's part of the (N,) column log-sum-exps to the whole, :func:`clipkit.distributed.all_logsumexp`
            where the texts come from several ranks; ``None`` where the image rows here are all there are.

    Returns:
        Scalar.
    """
    own = slice(offset, offset + image.shape[0])
    logits = logit_scale * similarities(image, text)  # (B, N)
    part = logits.logsumexp(0)  # (N,)
    columns = (part if join is None else join(part))[own]  # (B,)
    if concept is None or all_concepts is None:
        matched = logits[:, own].diagonal()  # (B,)
    else:
        target = positives(concept, all_concepts).to(logits.dtype)  # (B, N)
        matched = (logits * target).sum(1) / target.sum(1)
    # Positives are symmetric and as many in a row as in its column, so both directions share their matched term.
    return ((logits.logsumexp(1) + columns) / 2 - matched).mean()


def positives(concept: Tensor, all_concepts: Tensor) -> Tensor:
    """(B, N) bool, true where the ids ``concept`` (B,) and ``all_concepts`` (N,) are equal."""
    return concept[:, None] == all_concepts[None, :]


def similarities(image: Tensor, text: Tensor) -> Tensor:
    """(B, N) dot products of ``image`` (B, D) and ``text`` (N, D), in fp32 at least, whatever the autocast."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        return image.to(dtype) @ text.to(dtype).T
