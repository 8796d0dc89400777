"""What a model makes of some rows, and what is worth showing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Seen", "distinct", "evenly", "examine", "most_made", "nearest"]


class Seen(NamedTuple):
    """N rows through a model, on the CPU.

    Attributes:
        ids: (N) their numbers in the data set.
        labels: (N) their texts.
        classes: (K) the different ones, sorted.
        pairs: (N, D) image and (N, D) text embeddings, or None for a model without both.
        scores: (N, K) class scores, or None for a model without.
    """

    ids: list[int]
    labels: list[str]
    classes: list[str]
    pairs: tuple[Tensor, Tensor] | None
    scores: Tensor | None


def examine(model: Any, rows: Dataset, image: str, label: str, max_rows: int, batch_size: int) -> Seen:
    """Encode and score rows without gradients and without leaving evaluation mode switched on.

    Args:
        model: Anything with ``encode_image`` and ``encode_text``, or ``prepare`` and ``class_scores``, or all four.
        rows: A data set.
        image: Its image column.
        label: Its column of texts; of several in a row the first counts.
        max_rows: More are thinned out evenly.
        batch_size: Images at a time.
    """
    ids = evenly(len(rows), max_rows)
    labels = [_first(value) for value in rows.select_columns([label]).select(ids)[label]]
    classes = sorted(set(labels))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            pairs, scores = _encode(model, rows.select_columns([image]).select(ids), labels, classes, batch_size)
    finally:
        model.train(was_training)
    return Seen(ids, labels, classes, pairs, scores)


def nearest(queries: Tensor, images: Tensor, count: int) -> tuple[list[list[int]], list[list[float]]]:
    """The images nearest to each query by inner product; of equal ones the first comes first.

    Args:
        queries: (Q, D).
        images: (N, D).
        count: How many.

    Returns:
        Q lists of indices, best first, and of their scores.
    """
    scores, order = (queries @ images.T).sort(dim=1, descending=True, stable=True)  # (Q, N)
    return order[:, :count].tolist(), scores[:, :count].tolist()


def most_made(scores: Tensor, true: Tensor, count: int) -> list[tuple[int, int, list[int]]]:
    """The pairs of classes most often confused; of equally frequent ones, those with the widest margin first.

    Args:
        scores: (N, K) class scores.
        true: (N,) class indices.
        count: How many pairs at most.

    Returns:
        True class, class it was taken for, and the rows concerned.
    """
    best, predicted = scores.max(1)
    margin = best - scores.gather(1, true[:, None]).squeeze(1)  # (N,)
    rows: dict[tuple[int, int], list[int]] = {}
    for i in (predicted != true).nonzero().flatten().tolist():
        rows.setdefault((int(true[i]), int(predicted[i])), []).append(i)
    order = sorted(rows, key=lambda pair: (-len(rows[pair]), -float(margin[rows[pair]].max()), pair))
    return [(*pair, rows[pair]) for pair in order[:count]]


def evenly(length: int, most: int) -> list[int]:
    """At most so many indices below ``length``, evenly spread, first and last among them."""
    picked: list[int] = torch.linspace(0, length - 1, min(length, most), dtype=torch.float64).round().long().tolist()
    return picked


def distinct(labels: Sequence[str], most: int) -> list[int]:
    """Indices of different labels, each where it first stands, evenly spread over all."""
    firsts: dict[str, int] = {}
    for i, label in enumerate(labels):
        firsts.setdefault(label, i)
    places = list(firsts.values())
    return [places[i] for i in evenly(len(places), most)]


def _encode(
    model: Any, images: Dataset, labels: list[str], classes: list[str], batch_size: int
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    paired = hasattr(model, "encode_image") and hasattr(model, "encode_text")
    prepared = model.prepare([[name] for name in classes]) if hasattr(model, "class_scores") else None
    image, text, scores = [], [], []
    for start in range(0, len(images), batch_size):
        (batch,) = images[start : start + batch_size].values()
        if paired:
            image.append(model.encode_image(batch).float().cpu())
            text.append(model.encode_text(labels[start : start + batch_size]).float().cpu())
        if prepared is not None:
            scores.append(model.class_scores(batch, prepared).float().cpu())
    return (torch.cat(image), torch.cat(text)) if paired else None, torch.cat(scores) if scores else None


def _first(value: Any) -> str:
    return str(value[0] if isinstance(value, list) and value else value)
