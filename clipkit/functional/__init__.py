"""The mathematics of image-text learning as pure functions."""

from __future__ import annotations

from clipkit.functional.contrastive import info_nce, info_nce_rows, positives
from clipkit.functional.embeddings import effective_rank, in_batch_accuracy, repeated_share, spread
from clipkit.functional.recall import (
    match_ranks,
    median_rank,
    recall_at_k,
    retrieval_ranks,
    target_ranks,
    top_candidates,
)
from clipkit.functional.sigmoid import sigmoid_loss, sigmoid_loss_rows
from clipkit.functional.zero_shot import class_embeddings, mean_per_class, mean_per_class_accuracy, top_k_accuracy

__all__ = [
    "class_embeddings",
    "effective_rank",
    "in_batch_accuracy",
    "info_nce",
    "info_nce_rows",
    "match_ranks",
    "mean_per_class",
    "mean_per_class_accuracy",
    "median_rank",
    "positives",
    "recall_at_k",
    "repeated_share",
    "retrieval_ranks",
    "sigmoid_loss",
    "sigmoid_loss_rows",
    "spread",
    "target_ranks",
    "top_candidates",
    "top_k_accuracy",
]
