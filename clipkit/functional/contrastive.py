"""InfoNCE, the objective of CLIP, as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from clipkit.functional.strips import at_once, negatives_logsumexp, softplus_exact
from clipkit.types import ArgumentError

__all__ = ["info_nce", "info_nce_rows", "positives", "similarities"]

AT_ONCE = 2**20
"""Similarities up to which plain operations, which are fewer, took less time than strips on a CPU."""

Concepts = tuple[Tensor, Tensor] | None  # (B,) and (N,)


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
            where the texts come from several ranks; ``None`` where the image rows here are all there are. Own pairs
            are left out of them: a loss near zero and its gradient would drown in the rounding of one minus one.
        tile: As for :func:`info_nce`.

    Returns:
        Scalar.

    Raises:
        ArgumentError: For a tile of no rows, or ids of one side alone.
    """
    concepts = both_or_none(concept, all_concepts)
    way = _at_once if at_once(image, text, tile, AT_ONCE) else partial(_in_strips, tile=tile)
    sums = way(image, text, logit_scale, concepts, offset)
    columns = (sums.columns if join is None else join(sums.columns))[offset : offset + len(image)]  # (B,)
    loss = (softplus_exact(sums.rows - sums.own) + softplus_exact(columns - sums.own)) / 2  # against own pairs alone
    return (loss if sums.less is None else loss + sums.less).mean()


class _Sums(NamedTuple):
    """What the loss is made of; own pairs are kept apart, as in :mod:`clipkit.functional.strips`.

    Positives are symmetric and as many in a row as in its column, so that both directions share ``less``.
    """

    rows: Tensor  # (B,) log-sum-exps over the other texts
    columns: Tensor  # (N,) over this rank's other images
    own: Tensor  # (B,) logits
    less: Tensor | None  # (B,) own less the mean over the row's positives; 0 to the last bit where it is the only one


def _at_once(image: Tensor, text: Tensor, scale: Tensor, concepts: Concepts, offset: int) -> _Sums:
    """With all similarities in memory: the fewest operations, and O(B * N) of it."""
    logits = scale * similarities(image, text)  # (B, N)
    own = logits[:, offset : offset + len(image)].diagonal()  # (B,)
    nothing = torch.full_like(own, torch.finfo(own.dtype).min)  # -inf would give a lone pair gradients that are none
    others, less = logits.diagonal_scatter(nothing, offset), None
    if concepts is not None:
        target = positives(*concepts).to(logits.dtype).diagonal_scatter(torch.zeros_like(own), offset)  # (B, N)
        counts = target.sum(1)
        less = (counts * own - (logits * target).sum(1)) / (counts + 1)
    return _Sums(others.logsumexp(1), others.logsumexp(0), own, less)


def _in_strips(image: Tensor, text: Tensor, scale: Tensor, concepts: Concepts, offset: int, tile: int | None) -> _Sums:
    """In memory O(tile * N)."""
    rows, columns, own = negatives_logsumexp(image, text, scale, offset, tile)
    less = None if concepts is None else _less_the_others(image, text, scale, own, concepts[1], offset)
    return _Sums(rows, columns, own, less)


def _less_the_others(
    image: Tensor, text: Tensor, scale: Tensor, own: Tensor, all_concepts: Tensor, offset: int
) -> Tensor:
    """``less``, without the block: logits are linear in the text, so that a sum over positives is one product."""
    in_order, order = all_concepts.sort()
    group = torch.empty_like(order)  # (N,) counts concepts from 0, without the sync that ``unique`` costs on a GPU
    group[order] = (in_order.diff(prepend=in_order[:1]) != 0).cumsum(0)
    rows = slice(offset, offset + len(image))
    mine = group[rows]  # (B,)
    counts = own.new_zeros(len(group)).index_add(0, group, own.new_ones(len(group)))[mine]  # (B,)
    with torch.autocast(own.device.type, enabled=False):
        text = text.to(own.dtype)
        sums = torch.zeros_like(text).index_add(0, group, text)[mine]  # (B, D)
        others = scale * (image * (sums - text[rows])).sum(1)
    return ((counts - 1) * own - others) / counts


def both_or_none(concept: Tensor | None, all_concepts: Tensor | None) -> Concepts:
    """The ids of images and texts.

    Raises:
        ArgumentError: Where only one of them is given.
    """
    if concept is None and all_concepts is None:
        return None
    if concept is None or all_concepts is None:
        missing = "concept" if concept is None else "all_concepts"
        raise ArgumentError(missing, "give the ids of images and of texts, or neither")
    return concept, all_concepts


def positives(concept: Tensor, all_concepts: Tensor) -> Tensor:
    """(B, N) bool, true where the ids ``concept`` (B,) and ``all_concepts`` (N,) are equal."""
    return concept[:, None] == all_concepts[None, :]


def similarities(image: Tensor, text: Tensor) -> Tensor:
    """(B, N) dot products of ``image`` (B, D) and ``text`` (N, D), in fp32 at least, whatever the autocast."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        return image.to(dtype) @ text.to(dtype).T
