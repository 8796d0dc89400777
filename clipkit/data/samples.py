"""A row to a sample: one image opened, one caption drawn, both augmented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from clipkit.data.augment import SampleTransform
from clipkit.data.captions import CaptionChoice
from clipkit.data.hashes import stable_id
from clipkit.data.prepare import Prepare
from clipkit.data.skips import Skipped
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
        decode: ``fast`` or ``reference``; see ``Prepare``.
    """

    spec: InputSpec | None
    image: str
    choice: CaptionChoice
    concept: str = "row"
    extra: tuple[str, ...] = ()
    transforms: Sequence[SampleTransform] = ()
    train: bool = True
    decode: str = "fast"

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
        assert self.spec is not None  # a loader is made of the model's
        prepare = Prepare(self.spec, () if rng is None else self.transforms, self.decode)
        image, caption = prepare.open(row[self.image]), self.choice.draw(self.choice.candidates(row), rng)
        made, caption = prepare(image, caption, rng)
        return Sample(made, caption, self._id(row, number, caption), position, {name: row[name] for name in self.extra})

    def _id(self, row: Mapping[str, Any], number: int, caption: str) -> int:
        if self.concept == "row":
            return number
        return stable_id(caption if self.concept == "caption" else row[self.concept])
