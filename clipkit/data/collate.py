"""Rows to samples to batches; all of it runs in the loader's workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from clipkit.data.augment import SampleTransform
from clipkit.data.images import fit_image, open_image, to_pixels
from clipkit.data.order import SampleKey, sample_rng
from clipkit.data.source import stable_id
from clipkit.tokens import Tokenizer
from clipkit.types import ImageTextBatch, InputSpec

__all__ = ["CaptionChoice", "CaptionedImages", "Collate", "Sample"]


class Sample(NamedTuple):
    """One captioned image, ready to be stacked: ``image`` (3, H, W) uint8."""

    image: Tensor
    caption: str
    concept: int
    position: int
    extra: dict[str, Any]


class CaptionChoice(NamedTuple):
    """How one caption is made from a row that has several.

    Attributes:
        columns: Column to weight; a column holds a string or a list of strings.
        language_column: Column parallel to the captions, naming each one's language.
        languages: The languages to draw from; empty for all.
        templates: Frames with one ``{}``, drawn evenly; ``("{}",)`` for none.
    """

    columns: Mapping[str, float]
    language_column: str | None = None
    languages: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("{}",)

    def candidates(self, row: Mapping[str, Any]) -> dict[str, list[str]]:
        """Column to its captions in this row, empty columns left out."""
        found = {column: self._of_column(row, column) for column in self.columns}
        return {column: captions for column, captions in found.items() if captions}

    def draw(self, captions: Mapping[str, list[str]], rng: np.random.Generator | None) -> str:
        """One caption: a column by weight, a caption of it, a template; the first of each where there is no ``rng``."""
        if not captions:
            return ""
        if rng is None:
            return self.templates[0].replace("{}", next(iter(captions.values()))[0])
        weights = np.array([self.columns[column] for column in captions], dtype=np.float64)
        column = list(captions)[int(rng.choice(len(weights), p=weights / weights.sum()))]
        text = captions[column][int(rng.integers(len(captions[column])))]
        return self.templates[int(rng.integers(len(self.templates)))].replace("{}", text)

    def _of_column(self, row: Mapping[str, Any], column: str) -> list[str]:
        value = row[column]
        texts = [value] if isinstance(value, str) else list(value or [])
        if self.language_column is None or not self.languages or isinstance(value, str):
            return texts
        spoken = row[self.language_column]
        return [text for text, language in zip(texts, spoken, strict=True) if language in self.languages]


class CaptionedImages(TorchDataset[Sample]):
    """Samples by :class:`SampleKey`; the same key gives the same sample in any process.

    Args:
        rows: The data set.
        spec: What the model wants.
        image: The image column.
        choice: How a caption is chosen.
        concept: ``row``, ``caption`` or a column.
        extra: Numeric columns to pass on.
        transforms: Applied in order, in training.
        seed: Seed of every draw.
        train: Whether to draw and augment; else the first caption and the central crop.
    """

    def __init__(
        self,
        rows: Dataset,
        spec: InputSpec,
        image: str,
        choice: CaptionChoice,
        concept: str = "row",
        extra: Sequence[str] = (),
        transforms: Sequence[SampleTransform] = (),
        seed: int = 0,
        train: bool = True,
    ) -> None:
        self.spec, self.image, self.choice, self.concept = spec, image, choice, concept
        self.extra, self.transforms, self.seed, self.train = tuple(extra), tuple(transforms), seed, train
        columns = {image, *choice.columns, *extra, *([concept] if concept not in ("row", "caption") else [])}
        columns |= {choice.language_column} if choice.language_column else set()
        self.rows = rows.select_columns(sorted(columns)).cast_column(image, Image(decode=False))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Sample]:
        """A batch of samples, read in one go."""
        columns = self.rows[[key.row for key in keys]]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [self._sample(row, key) for row, key in zip(rows, keys, strict=True)]

    def __getitem__(self, key: SampleKey) -> Sample:
        """One sample."""
        return self.__getitems__([key])[0]

    def _sample(self, row: dict[str, Any], key: SampleKey) -> Sample:
        rng = sample_rng(self.seed, key.epoch, key.position, 1) if self.train else None
        image, captions = open_image(row[self.image]), self.choice.candidates(row)
        caption = self.choice.draw(captions, rng)
        if rng is not None:
            for transform in self.transforms:
                image, (caption, *_) = transform(image, [caption], rng)
        concept = key.row if self.concept == "row" else stable_id(caption if self.concept == "caption" else row[self.concept])
        extra = {name: row[name] for name in self.extra}
        return Sample(to_pixels(fit_image(image, self.spec, rng)), caption, concept, key.position, extra)


class Collate:
    """Samples to an :class:`ImageTextBatch`, with one call of the tokenizer.

    Args:
        spec: What the model wants.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.tokenizer = Tokenizer(spec.tokenizer, spec.context_length, spec.pad)

    def __call__(self, samples: Sequence[Sample]) -> ImageTextBatch:
        """B samples to a batch; ``extra["truncated"]`` (B,) says whose caption was cut."""
        tokens, mask, cut = self.tokenizer.encode([sample.caption for sample in samples])
        extra = {name: torch.as_tensor([sample.extra[name] for sample in samples]) for name in samples[0].extra}
        return ImageTextBatch(
            image=torch.stack([sample.image for sample in samples]),
            tokens=tokens,
            mask=mask,
            concept=torch.tensor([sample.concept for sample in samples], dtype=torch.int64),
            position=torch.tensor([sample.position for sample in samples], dtype=torch.int64),
            extra={**extra, "truncated": cut},
        )
