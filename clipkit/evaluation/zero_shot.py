"""Zero-shot classification: the metric, and the evaluator that runs a model over labelled rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn

from clipkit.evaluation.base import Rankings, as_scorer, held_still, open_rows, shares
from clipkit.evaluation.candidates import find_candidates
from clipkit.evaluation.columns import Columns, first_of_each
from clipkit.functional import mean_per_class, recall_at_k, target_ranks
from clipkit.types import ArgumentError

__all__ = ["Confusion", "ZeroShot", "ZeroShotEvaluator", "confusions"]


class Confusion(NamedTuple):
    """How often rows of one class were taken for another.

    Attributes:
        right: The class they are of.
        predicted: The class they were taken for.
        rows: How many.
    """

    right: str
    predicted: str
    rows: int


class ZeroShot(Columns):
    """Accuracy among candidate classes; ties are pessimistic, so equal scores for all classes are a miss.

    Args:
        top: The k of ``acc<k>``.
        keep: How many best classes of each row are kept for ``rankings``.
    """

    def __init__(self, top: tuple[int, ...] = (1, 5), keep: int = 5) -> None:
        super().__init__()
        self.top = tuple(top)
        self.keep = keep
        for name in ("position", "target", "rank", "best"):
            self.add_column(name)
        self.add_column("score", torch.float32)

    def update(self, scores: Tensor, target: Tensor, position: Tensor | None = None) -> None:
        """Add rows.

        Args:
            scores: (B, K), any sign.
            target: (B,) int64, the right class.
            position: (B,) int64, row numbers in the whole set; a row that comes again is left out. By default rows are
                counted as they come.
        """
        position = self.count_on("position", len(target)) if position is None else position
        target = target.to(scores.device)
        best = scores.topk(min(self.keep, scores.shape[1]), dim=1)  # (B, keep)
        columns = (position.to(scores.device), target, target_ranks(scores, target), best.indices, best.values)
        for name, values in zip(("position", "target", "rank", "best", "score"), columns, strict=True):
            self.append(name, values)

    def compute(self) -> dict[str, float]:
        """``acc<k>`` and ``mean_per_class``, each in [0, 1]; the latter over the classes that have rows.

        Raises:
            ValueError: There is no row.
        """
        rows = first_of_each(self.column("position"))
        if not len(rows):
            raise ValueError("there is nothing to classify: no row was added")
        ranks, target = self.column("rank")[rows].cpu(), self.column("target")[rows].cpu()
        accuracies = {f"acc{k}": recall_at_k(ranks, k).item() for k in self.top}
        return accuracies | {"mean_per_class": mean_per_class(ranks <= 1, target).item()}

    def rankings(self) -> Rankings:
        """Every row's best classes, over all ranks; ``query`` are positions, ``top`` classes. Call it on every rank."""
        with self.sync_context():
            position, target = self.column("position"), self.column("target")
            best, score = (self.column(name).reshape(len(position), -1) for name in ("best", "score"))
        rows = first_of_each(position)
        right = best[rows] == target[rows][:, None]
        return Rankings(*(part.cpu() for part in (position[rows], best[rows], score[rows], right)))


class ZeroShotEvaluator:
    """Zero-shot classification of the rows of a set.

    Class embeddings are made in every call, so they are always those of the weights at hand.

    Args:
        rows: A name that ``clipkit.data.load_rows`` knows, or a ``datasets.Dataset``.
        label: Column of the right class: its name, or its number in ``classes`` or in the column's own class names.
        image: Column of the images.
        classes: Names of the candidates, in the order of their numbers.
        classes_from: Instead, sets whose labels are the candidates. By default the labels of ``rows``.
        among: Narrower candidates by name, each as sets like ``classes_from``; adds ``acc1_among_<name>`` and so on.
        templates: Prompts, ``{}`` standing for the class name; a class is the mean of its prompts.
        split: The split of ``rows``, where a folder or hub id has several.
        batch_size: Rows a batch.
        top: The k of ``acc<k>``.

    Attributes:
        candidates: Class names, the right one of each row, and the narrower candidates.
        artifacts: After a call ``classes`` (names), ``rankings`` (every row's best classes) and ``confusions`` (those
            most often made first).

    Raises:
        ArgumentError: There are no such rows or no such column, a label is no candidate, candidates are named twice, or
            a template has no ``{}``, a batch no row.
    """

    def __init__(
        self,
        rows: str | Dataset,
        label: str,
        image: str = "image",
        classes: Sequence[str] | None = None,
        classes_from: Sequence[str | Dataset] | None = None,
        among: Mapping[str, Sequence[str | Dataset]] | None = None,
        templates: Sequence[str] = ("{}",),
        split: str = "train",
        batch_size: int = 256,
        top: Sequence[int] = (1, 5),
    ) -> None:
        if classes is not None and classes_from is not None:
            raise ArgumentError("classes_from", "give the candidates by `classes` or by `classes_from`, not by both")
        bad = [template for template in templates if "{}" not in template]
        if bad or not templates:
            raise ArgumentError("templates", f"every prompt needs {{}} where the class name goes, got {bad or 'none'}")
        if batch_size < 1:
            raise ArgumentError("batch_size", f"{batch_size} is less than 1")
        self.image = image
        self.rows = open_rows("rows", rows, [image, label], split)
        self.candidates = find_candidates(self.rows, label, classes, classes_from, among or {})
        self.templates = tuple(templates)
        self.batch_size = batch_size
        self.top = tuple(top)
        self.artifacts: dict[str, object] = {}

    def __call__(self, model: nn.Module, /) -> dict[str, float]:
        """Classify every row: ``acc1``, ``acc5``, ``mean_per_class``, and the same ``_among_<name>``.

        Raises:
            TypeError: The model cannot score classes.
        """
        scorer = as_scorer(model)
        names, target, narrower = self.candidates
        views = {"": torch.arange(len(names))} | {f"_among_{key}": part for key, part in narrower.items()}
        metrics = {suffix: ZeroShot(self.top) for suffix in views}
        with held_still(model):
            prepared = scorer.prepare([[template.replace("{}", name) for template in self.templates] for name in names])
            for share in shares(self.rows, self.batch_size):
                scores = scorer.class_scores(share.columns[self.image], prepared)  # (B, K)
                for suffix, part in views.items():
                    own = torch.searchsorted(part, target[share.position])  # (B,), the right class's place in the part
                    metric = metrics[suffix].to(scores.device)
                    if share.counts:
                        metric.update(scores[:, part.to(scores.device)], own, share.position)
            figures = {f"{key}{suffix}": value for suffix, m in metrics.items() for key, value in m.compute().items()}
            rankings = metrics[""].rankings()
        self.artifacts = {"classes": names, "rankings": rankings, "confusions": confusions(rankings, target, names)}
        return figures


def confusions(rankings: Rankings, target: Tensor, names: Sequence[str]) -> list[Confusion]:
    """What was taken for what, most often first, then by name.

    Args:
        rankings: Every row's best classes.
        target: (N,) int64, the right class by row number.
        names: K class names.

    Returns:
        One entry a pair of classes that was confused.
    """
    pairs = zip(target[rankings.query].tolist(), rankings.top[:, 0].tolist(), strict=True)
    counts = Counter((names[right], names[best]) for right, best in pairs if right != best)
    return [Confusion(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
