"""What a batch of embeddings says about the health of training."""

from __future__ import annotations

import torch
from torch import Tensor

from clipkit.functional.contrastive import positives

__all__ = ["effective_rank", "in_batch_accuracy", "repeated_share", "spread"]


def spread(x: Tensor) -> Tensor:
    """Mean of 1 - cosine over all pairs, 0 where all rows are the same and about 1 where they point anywhere.

    Args:
        x: (B, D), normalised.

    Returns:
        Scalar.
    """
    return 1 - x.float().mean(0).square().sum()


def effective_rank(x: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values: how many directions are in use (Roy and Vetterli, 2007).

    Args:
        x: (B, D); its mean row is taken off.

    Returns:
        Scalar between 1 and min(B, D); NaN where an entry is not finite, which the decomposition itself refuses.
    """
    finite = x.isfinite().all()
    x = x.float().nan_to_num()
    values = torch.linalg.svdvals(x - x.mean(0))
    share = values / values.sum().clamp(min=1e-12)
    entropy = torch.special.entr(share).sum()
    return torch.where(finite, entropy.exp(), torch.nan)


def in_batch_accuracy(image: Tensor, text: Tensor, concept: Tensor) -> Tensor:
    """Share of images whose nearest text of the batch is one of their own concept.

    Args:
        image: (B, D), normalised.
        text: (B, D), normalised.
        concept: (B,) ids.

    Returns:
        Scalar in [0, 1]; 1 / B is chance where each row is its own concept.
    """
    nearest = (image @ text.T).argmax(1)  # (B,)
    return positives(concept, concept)[torch.arange(len(concept), device=concept.device), nearest].float().mean()


def repeated_share(tokens: Tensor, concept: Tensor) -> Tensor:
    """Share of rows with a false negative: another row has the same caption but counts as a wrong answer.

    Args:
        tokens: (B, L) ids.
        concept: (B,) ids.

    Returns:
        Scalar in [0, 1].
    """
    captions = torch.unique(tokens, dim=0, return_inverse=True)[1]  # (B,) an id a caption
    pairs = torch.stack([captions, concept], 1)  # (B, 2)
    same_caption = _times(captions)
    same_both = _times(torch.unique(pairs, dim=0, return_inverse=True)[1])
    return (same_caption > same_both).float().mean()


def _times(ids: Tensor) -> Tensor:
    """(B,) how often each row's id comes among all rows."""
    return torch.bincount(ids)[ids]
