"""Zero-shot classification: class embeddings from prompts, and its accuracies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.functional.recall import recall_at_k, target_ranks

__all__ = ["class_embeddings", "mean_per_class", "mean_per_class_accuracy", "top_k_accuracy"]


def class_embeddings(prompts: Tensor, sizes: Sequence[int]) -> Tensor:
    """One unit vector a class: the mean of its normalised prompt embeddings, renormalised (CLIP, section 3.1.4).

    Args:
        prompts: (P, D), the prompts of all classes one class after the other, of any length.
        sizes: Number of prompts of each of the K classes, each at least 1, P in all.

    Returns:
        (K, D), each row of length 1.

    Raises:
        ValueError: A class has no prompt, or the sizes do not add up to P.
    """
    if min(sizes, default=0) < 1 or sum(sizes) != len(prompts):
        raise ValueError(
            f"sizes must be at least 1 and add up to the {len(prompts)} prompts, got {list(sizes)[:10]} ..."
        )
    parts = torch.split(normalize(prompts, dim=-1), list(sizes))  # K times (prompts, D)
    return normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def top_k_accuracy(scores: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """Share of rows whose right class is among the k best scored.

    Args:
        scores: (N, K), any sign.
        target: (N,) int64.
        k: At least 1.

    Returns:
        Scalar float64; ties are pessimistic, see ``clipkit.functional.recall``.
    """
    return recall_at_k(target_ranks(scores, target), k)


def mean_per_class_accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Top-1 accuracy of each class, averaged over the classes in ``target``; arguments as ``top_k_accuracy``."""
    return mean_per_class(target_ranks(scores, target) <= 1, target)


def mean_per_class(hit: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes that occur of the share of their rows that are hits: the macro-averaged recall.

    Args:
        hit: (N,) bool.
        target: (N,) int64, the right class of each row.

    Returns:
        Scalar float64; NaN where there is no row.
    """
    rows = target.bincount()  # (K,), up to the highest class that occurs
    hits = target[hit].bincount(minlength=len(rows))
    return (hits[rows > 0].double() / rows[rows > 0]).mean()
