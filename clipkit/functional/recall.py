"""Ranks and recall at k, from scores or straight from embeddings.

Ties are pessimistic: a wrong candidate that is not strictly below the right one stands before it. So a model that gives
every candidate the same score, or NaN, gets the last place and not the first, and no result hangs on a sort's order.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["match_ranks", "median_rank", "recall_at_k", "retrieval_ranks", "target_ranks", "top_candidates"]


def match_ranks(scores: Tensor, right: Tensor) -> Tensor:
    """Place of the best right candidate of each query, 1 being the first; other right candidates never push it down.

    Scores may have any sign. Ties are pessimistic and NaN counts as a tie: the rank is one more than the number of
    wrong candidates that are not strictly below the best right one.

    Args:
        scores: (Q, C).
        right: (Q, C) bool, at least one true in each row.

    Returns:
        (Q,) int64 in [1, C].

    Raises:
        ValueError: Some query has no right candidate.
    """
    if not bool(right.any(dim=1).all()):
        rows = (~right.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"{len(rows)} queries have no right candidate, the first of them query {rows[0]}")
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (Q, 1), NaN where a right one is NaN
    return 1 + (~(scores < best) & ~right).sum(dim=1)


def target_ranks(scores: Tensor, target: Tensor) -> Tensor:
    """Place of the one right candidate of each query, 1 being the first; ties as in ``match_ranks``.

    Args:
        scores: (Q, C).
        target: (Q,) int64, index of the right candidate.

    Returns:
        (Q,) int64 in [1, C].
    """
    own = scores.gather(1, target[:, None])  # (Q, 1)
    return (~(scores < own)).sum(dim=1)  # the right one is not below itself: that is the 1


def retrieval_ranks(
    query: Tensor, candidate: Tensor, query_id: Tensor, candidate_id: Tensor, *, chunk: int = 256
) -> Tensor:
    """Place of the best right candidate of each query, by dot product; it is right where its id is the query's.

    With several captions an image that is the image's best-ranked caption, and the caption's only image. Scores are
    made for ``chunk`` queries at a time, so memory grows with Q + C and not with Q * C.

    Args:
        query: (Q, D).
        candidate: (C, D).
        query_id: (Q,) int64.
        candidate_id: (C,) int64.
        chunk: Queries scored at a time.

    Returns:
        (Q,) int64 in [1, C]; ties as in ``match_ranks``.

    Raises:
        ValueError: Some query has no right candidate.
    """
    parts = [
        match_ranks(_scores(rows, candidate), ids[:, None] == candidate_id[None, :])
        for rows, ids in zip(torch.split(query, chunk), torch.split(query_id, chunk), strict=True)
    ]
    return torch.cat(parts) if parts else query_id.new_empty(0)


def top_candidates(query: Tensor, candidate: Tensor, k: int, *, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """The k best candidates of each query by dot product, best first, in the same chunks as ``retrieval_ranks``.

    Args:
        query: (Q, D).
        candidate: (C, D).
        k: How many, at most C.
        chunk: Queries scored at a time.

    Returns:
        Scores and indices, each (Q, min(k, C)).
    """
    parts = [_scores(rows, candidate).topk(min(k, len(candidate)), dim=1) for rows in torch.split(query, chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def recall_at_k(ranks: Tensor, k: int) -> Tensor:
    """Share of queries whose right candidate stands among the first k.

    Args:
        ranks: (Q,), 1 being the first.
        k: At least 1.

    Returns:
        Scalar float64 in [0, 1]; NaN where there is no query.
    """
    return (ranks <= k).double().mean()


def median_rank(ranks: Tensor) -> Tensor:
    """Median of the ranks (Q,), a scalar float64; of an even number the mean of the middle two, unlike torch's."""
    ordered = ranks.double().sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _scores(rows: Tensor, candidate: Tensor) -> Tensor:
    """(chunk, D) and (C, D) to (chunk, C); autocast would round scores to bf16 and make ties where there are none."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ candidate.T
