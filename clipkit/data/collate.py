"""Rows to samples to batches; all of it runs in the loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset, Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from clipkit.data.augment import SampleTransform
from clipkit.data.captions import CaptionChoice
from clipkit.data.hashes import stable_id
from clipkit.data.images import fit_image, open_image, to_pixels
from clipkit.data.order import SampleKey, sample_rng
from clipkit.tokens import Tokenizer
from clipkit.types import ImageTextBatch, InputSpec

__all__ = ["CaptionedImages", "Collate", "Sample"]


class Sample(NamedTuple):
    """One captioned image, ready to be stacked: ``image`` (3, H, W) uint8."""

    image: Tensor
    caption: str
    concept: int
    position: int
    extra: dict[str, Any]


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
        columns = {image, *choice.columns, *choice.language_of.values(), *extra}
        columns |= {concept} if concept not in ("row", "caption") else set()
        self.rows = rows.select_columns(sorted(columns)).cast_column(image, Image(decode=False))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Sample]:
        """A batch of samples, read in one go.

        Raises:
            ValueError: For a row that cannot be read; it says which.
        """
        columns = self.rows[[key.row for key in keys]]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [self._sample(row, key) for row, key in zip(rows, keys, strict=True)]

    def __getitem__(self, key: SampleKey) -> Sample:
        """One sample."""
        return self.__getitems__([key])[0]

    def _sample(self, row: dict[str, Any], key: SampleKey) -> Sample:
        rng = sample_rng(self.seed, key.epoch, key.position) if self.train else None
        try:
            image, caption = open_image(row[self.image]), self.choice.draw(self.choice.candidates(row), rng)
        except Exception as error:  # decoders raise anything
            path = (row[self.image] or {}).get("path")
            where = f"row {key.row}" + (f" ({path})" if path else "")
            raise ValueError(f"{where} of the {'training' if self.train else 'validation'} rows: {error}") from error
        if rng is not None:
            for transform in self.transforms:
                image, (caption, *_) = transform(image, [caption], rng)
        pixels, concept = to_pixels(fit_image(image, self.spec, rng)), self._concept(row, key, caption)
        return Sample(pixels, caption, concept, key.position, {name: row[name] for name in self.extra})

    def _concept(self, row: dict[str, Any], key: SampleKey, caption: str) -> int:
        if self.concept == "row":
            return key.row
        return stable_id(caption if self.concept == "caption" else row[self.concept])


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
