"""What a data module reads of its sources, and what it checks before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from lightning.pytorch.utilities import rank_zero_warn

from clipkit.data.arguments import check_columns, check_images
from clipkit.data.augment import SampleTransform
from clipkit.data.captions import CaptionChoice, choose_captions, has_caption
from clipkit.data.columns import image_column, stored
from clipkit.data.filters import Filter, check_filters
from clipkit.data.head import head
from clipkit.data.mixture import CaptionOption
from clipkit.data.remote import public_name
from clipkit.data.samples import Recipe
from clipkit.data.sharded import Shards
from clipkit.data.skips import Skipped
from clipkit.data.streamed import Source
from clipkit.types import ArgumentError

__all__ = ["Captioned", "Wanted", "captioned", "first_rows", "seen_once", "stream_sources"]


class Captioned(NamedTuple):
    """Rows, their image column, how a caption is chosen, and which rows were left out already."""

    rows: Dataset
    image: str
    choice: CaptionChoice
    left_out: tuple[Skipped, ...] = ()


class Wanted(NamedTuple):
    """What is wanted of a row; each is an argument of the data module."""

    image: str | None
    caption: CaptionOption
    language_column: str | None
    languages: Sequence[str]
    templates: Sequence[str]
    concept: str
    distinct_concepts: bool
    extra: tuple[str, ...]
    transforms: tuple[SampleTransform, ...]
    decode: str = "fast"

    @property
    def columns(self) -> list[str]:
        """Those beside image and captions."""
        concept = [] if self.concept in ("row", "caption") else [self.concept]
        return [*concept, *self.extra, *([self.language_column] if self.language_column else [])]

    def check(self, rows: Dataset, whole: bool = True) -> Captioned:
        """Find image and caption columns, and open some images.

        Args:
            rows: The data set, or the first rows of a stream.
            whole: Which of the two.

        Raises:
            ArgumentError: For the argument at fault.
        """
        image = image_column(rows, self.image)
        choice = choose_captions(rows, self.caption, self.language_column, self.languages, self.templates, whole)
        check_columns(rows, self.concept, self.distinct_concepts, self.extra)
        check_images(rows, image, "image")
        return Captioned(rows, image, choice)

    def like(self, recipe: Recipe, rows: Dataset) -> Wanted:
        """The same of rows with the columns that samples are already made of; else as for any other rows."""
        captions = dict(recipe.choice.columns)
        if {recipe.image, *captions} <= set(rows.column_names):
            return self._replace(image=recipe.image, caption=captions)
        return self

    def recipe(self, found: Captioned, train: bool = True) -> Recipe:
        """How samples are made of the rows."""
        return Recipe(found.image, found.choice, self.concept, self.extra, self.transforms, train, self.decode)


def captioned(rows: Dataset, wanted: Wanted, argument: str) -> Captioned:
    """The rows that are asked for: all but those whose captions are in other languages alone.

    One with no caption stays: in training it is skipped and counted when its turn comes, like any that cannot be used.

    Raises:
        ArgumentError: For the argument at fault; for ``argument`` where no row has a caption.
    """
    found = wanted.check(rows)
    has = has_caption(rows, found.choice)
    if not has.any():
        raise ArgumentError(argument, f"no row has a caption in {', '.join(found.choice.columns)}")
    blank = ~has_caption(rows, found.choice._replace(language_of={}))
    if blank.any():
        rank_zero_warn(f"{blank.sum()} of {len(rows)} rows have no caption; each is left out and counted")
    asked = has | blank
    if asked.all():
        return found
    languages = ", ".join(found.choice.languages)
    rank_zero_warn(f"{(~asked).sum()} of {len(rows)} rows have no caption in {languages} and are passed over")
    return found._replace(rows=rows.select(np.flatnonzero(asked)))


def seen_once(found: Captioned, left_out: Sequence[Skipped] = ()) -> Captioned:
    """The same for validation, where each row is to be seen once: without those that have no caption, which are named.

    Args:
        found: The rows.
        left_out: What else was left out before.
    """
    has = has_caption(found.rows, found.choice)
    blank = [
        Skipped("the validation rows", f"row {row}", "no_caption", "it has no caption", None)
        for row in np.flatnonzero(~has).tolist()
    ]
    rows = found.rows.select(np.flatnonzero(has)) if blank else found.rows
    return found._replace(rows=rows, left_out=(*left_out, *blank))


def first_rows(shards: Shards, most: int, name: str) -> tuple[Dataset, list[Skipped]]:
    """The first rows of a stream, all at once in memory (validation), and what was left out among them.

    Raises:
        ArgumentError: For ``train``, where there is none; for ``image``, where none has an image.
    """
    return _some(head(shards, most, float("inf")), name)


def _some(found: tuple[Dataset, list[Skipped]], name: str) -> tuple[Dataset, list[Skipped]]:
    rows, left_out = found
    if not len(rows):
        if left_out and {one.reason for one in left_out} == {"missing_member"}:
            first = left_out[0]
            raise ArgumentError(
                "image", f"no sample of {public_name(name)!r} has one; of {first.key!r}: {first.message}"
            )
        why = next((f": {one.source}: {one.message.removeprefix(f'{one.source}: ')}" for one in left_out), "")
        raise ArgumentError("train", f"no sample is found in {public_name(name)!r}{why}")
    return rows, left_out


def _complete(rows: Dataset, wanted: Wanted) -> Dataset:
    """The rows that have all values which are wanted of each, where some have: the others are skipped in training."""
    names = [name for name in {wanted.concept, *wanted.extra} if name in rows.column_names]
    full = np.logical_and.reduce([np.ones(len(rows), dtype=bool), *(stored(rows, n).is_valid() for n in names)])
    return rows.select(np.flatnonzero(full)) if full.any() and not full.all() else rows


def stream_sources(
    found: Mapping[str, Shards], shares: Mapping[str, float | None], wanted: Wanted, filters: Sequence[Filter]
) -> dict[str, Source]:
    """Streams that are checked by their first rows.

    Args:
        found: Source to its shards.
        shares: Source to its share of what is drawn; None where all have the same.
        wanted: What is read of a row.
        filters: What a row must have.

    Raises:
        ArgumentError: For the argument at fault, naming the source where there are several.
    """
    sources = {}
    for name, shards in found.items():
        rows, _ = _some(head(shards), name)
        try:
            check_filters(rows, filters)
            recipe = wanted.recipe(wanted.check(_complete(rows, wanted), whole=False))
        except ArgumentError as error:
            raise ArgumentError(
                error.argument, f"in {public_name(name)!r}: {error.message}" if len(found) > 1 else error.message
            ) from error
        sources[name] = Source(shards, shares[name] or 1 / len(found), recipe, filters)
    return sources
