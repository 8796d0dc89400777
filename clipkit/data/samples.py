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
from clipkit.data.prepare import Prepare
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


class Recipe(NamedTuple):
    """How a row becomes a sample, whatever the model and wherever the row comes from.

    Attributes:
        image: The image column.
        choice: How a caption is chosen.
        concept: ``row``, ``caption`` or a column.
        extra: Numeric columns to pass on.
        transforms: Applied in order, in training.
        train: Whether to draw and augment; else the first caption and the central crop.
        decode: ``fast`` or ``reference``; see ``Prepare``.
    """

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


class SampleMaker:
    """Makes samples for a model.

    Args:
        recipe: How.
        spec: What the model wants.
    """

    def __init__(self, recipe: Recipe, spec: InputSpec) -> None:
        self.recipe = recipe
        self.prepare = Prepare(spec, recipe.transforms if recipe.train else (), recipe.decode)

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
        choice = self.recipe.choice
        image, caption = self.prepare.open(row[self.recipe.image]), choice.draw(choice.candidates(row), rng)
        pixels, caption = self.prepare(image, caption, rng)
        extra = {name: _valued(row, name, Real) for name in self.recipe.extra}
        return Sample(pixels, caption, self._id(row, number, caption), position, extra)

    def _id(self, row: Mapping[str, Any], number: int, caption: str) -> int:
        concept = self.recipe.concept
        if concept == "row":
            return number
        return stable_id(caption if concept == "caption" else _valued(row, concept, str, Real))


def _valued(row: Mapping[str, Any], column: str, *kinds: type) -> Any:
    """What a row has in a column; of a stream only the first rows' kinds are known beforehand."""
    value = row[column]
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, kinds) or (isinstance(one, Integral) and abs(int(one)) >= 1 << 63):
            raise Unusable("bad_value", f"its {column} is {str(value)[:40]!r}")
    return value
