"""InfoNCE, the objective of CLIP, as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clipkit.functional.strips import AT_ONCE, negatives_logsumexp, softplus_exact

__all__ = ["info_nce", "info_nce_rows", "positives", "similarities"]


def info_nce(
    image: Tensor, text: Tensor, logit_scale: Tensor, *, concept: Tensor | None = None, tile: int | None = None
) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs.

    Cross-entropy of the scaled cosine similarities against the matching pair, averaged over both directions (CLIP,
    arXiv 2103.00020, figure 3). With ``concept`` the target is uniform over all rows with an equal id.

    Args:
        image: (B, D), normalised.
        text: (B, D), normalised.
        logit_scale: Scalar or (1,), already exponentiated.
        concept: (B,) ids; ``None`` makes each row its own only positive.
        tile: Rows of the similarity matrix in memory at a time, which then takes O(tile * B); the value is the same.
            ``None`` takes all while they are few, and a size that fits when not.

    Returns:
        Scalar loss in nats, at least in fp32; ln B is what knowing nothing costs.

    Raises:
        ArgumentError: For a tile of no rows.
    """
    return info_nce_rows(image, text, logit_scale, concept=concept, all_concepts=concept, tile=tile)


def info_nce_rows(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    *,
    concept: Tensor | None = None,
    all_concepts: Tensor | None = None,
    offset: int = 0,
    join: Callable[[Tensor], Tensor] | None = None,
    tile: int | None = None,
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
        tile: As for :func:`info_nce`.

    Returns:
        Scalar.
    """
    concepts = None if concept is None or all_concepts is None else (concept, all_concepts)
    share = _Share(image, text, logit_scale, concepts, slice(offset, offset + len(image)), join or _alone)
    at_once = tile is None and len(image) * len(text) <= AT_ONCE
    return _at_once(share) if at_once else _in_strips(share, tile)


class _Share(NamedTuple):
    """What a rank's share is made of; both ways of making it read the same."""

    image: Tensor  # (B, D)
    text: Tensor  # (N, D)
    scale: Tensor
    concepts: tuple[Tensor, Tensor] | None  # (B,) and (N,)
    own: slice  # columns of the rows' own texts
    join: Callable[[Tensor], Tensor]


def _alone(part: Tensor) -> Tensor:
    return part


def _at_once(share: _Share) -> Tensor:
    """The share with all similarities in memory: the fewest operations, and O(B * N) of it."""
    logits = share.scale * similarities(share.image, share.text)  # (B, N)
    columns = share.join(logits.logsumexp(0))[share.own]  # (B,)
    if share.concepts is None:
        matched = logits[:, share.own].diagonal()  # (B,)
    else:
        target = positives(*share.concepts).to(logits.dtype)  # (B, N)
        matched = (logits * target).sum(1) / target.sum(1)
    # Positives are symmetric and as many in a row as in its column, so both directions share their matched term.
    return ((logits.logsumexp(1) + columns) / 2 - matched).mean()


def _in_strips(share: _Share, tile: int | None) -> Tensor:
    """The share in memory O(tile * N)."""
    rows, columns, own = negatives_logsumexp(share.image, share.text, share.scale, share.own.start, tile)
    columns = share.join(columns)[share.own]  # (B,)
    loss = (softplus_exact(rows - own) + softplus_exact(columns - own)) / 2  # against own pairs alone
    if share.concepts is not None:
        loss = loss + _less_the_others(share, own, share.concepts[1])
    return loss.mean()


def _less_the_others(share: _Share, own: Tensor, all_concepts: Tensor) -> Tensor:
    """(B,) the own pair's logit less the mean over the row's positives; zero to the last bit where it is the only one.

    Logits are linear in the text, so that the sum over positives is one product with the sum of their texts.
    """
    in_order, order = all_concepts.sort()
    group = torch.empty_like(order)  # (N,) counts concepts from 0, without the sync that ``unique`` costs on a GPU
    group[order] = (in_order.diff(prepend=in_order[:1]) != 0).cumsum(0)
    mine = group[share.own]  # (B,)
    counts = own.new_zeros(len(group)).index_add(0, group, own.new_ones(len(group)))[mine]  # (B,)
    with torch.autocast(own.device.type, enabled=False):
        text = share.text.to(own.dtype)
        sums = torch.zeros_like(text).index_add(0, group, text)[mine]  # (B, D)
        others = share.scale * (share.image * (sums - text[share.own])).sum(1)
    return ((counts - 1) * own - others) / counts


def positives(concept: Tensor, all_concepts: Tensor) -> Tensor:
    """(B, N) bool, true where the ids ``concept`` (B,) and ``all_concepts`` (N,) are equal."""
    return concept[:, None] == all_concepts[None, :]


def similarities(image: Tensor, text: Tensor) -> Tensor:
    """(B, N) dot products of ``image`` (B, D) and ``text`` (N, D), in fp32 at least, whatever the autocast."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        return image.to(dtype) @ text.to(dtype).T
