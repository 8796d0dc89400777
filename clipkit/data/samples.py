"""A row to a sample: one image opened, one caption drawn, both augmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from clipkit.data.augment import SampleTransform
from clipkit.data.captions import CaptionChoice
from clipkit.data.hashes import stable_id
from clipkit.data.images import fit_image, open_image, to_pixels
from clipkit.data.skips import Skipped, Unusable
from clipkit.types import InputSpec

__all__ = ["Sample", "SampleMaker"]


class Sample(NamedTuple):
    """One captioned image, ready to be stacked: ``image`` (3, H, W) uint8, and what was left out for it."""

    image: Tensor
    caption: str
    concept: int
    position: int
    extra: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()


class SampleMaker(NamedTuple):
    """How a row becomes a sample, wherever the row comes from.

    Attributes:
        spec: What the model wants; None until that is known.
        image: The image column.
        choice: How a caption is chosen.
        concept: ``row``, ``caption`` or a column.
        extra: Numeric columns to pass on.
        transforms: Applied in order, in training.
        train: Whether to draw and augment; else the first caption and the central crop.
    """

    spec: InputSpec | None
    image: str
    choice: CaptionChoice
    concept: str = "row"
    extra: tuple[str, ...] = ()
    transforms: Sequence[SampleTransform] = ()
    train: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns of a row that are read."""
        names = {self.image, *self.choice.columns, *self.choice.language_of.values(), *self.extra}
        return sorted(names | ({self.concept} if self.concept not in ("row", "caption") else set()))

    def make(
        self, row: Mapping[str, Any], number: int, position: int, rng: np.random.Generator | None = None
    ) -> Sample:
        """A sample.

        Args:
            row: The columns; its image undecoded.
            number: What tells the row from all others.
            position: Its place in the order.
            rng: What is drawn from, in training.

        Raises:
            Exception: Whatever opening an image or reading a caption raises; ``reason_of`` says what it means.
        """
        image, caption = open_image(row[self.image]), self.choice.draw(self.choice.candidates(row), rng)
        if rng is not None:
            for transform in self.transforms:
                image, (caption, *_) = transform(image, [caption], rng)
        assert self.spec is not None  # a loader is made of the model's
        made = to_pixels(fit_image(image, self.spec, rng))
        extra = {name: _valued(row, name, Real) for name in self.extra}
        return Sample(made, caption, self._id(row, number, caption), position, extra)

    def _id(self, row: Mapping[str, Any], number: int, caption: str) -> int:
        if self.concept == "row":
            return number
        return stable_id(caption if self.concept == "caption" else _valued(row, self.concept, str, Real))


def _valued(row: Mapping[str, Any], column: str, *kinds: type) -> Any:
    """What a row has in a column; of a stream only the first rows' kinds are known beforehand."""
    value = row[column]
    if not isinstance(value, kinds) or (isinstance(value, Integral) and abs(int(value)) >= 1 << 63):
        raise Unusable("bad_value", f"its {column} is {str(value)[:40]!r}")
    return value
