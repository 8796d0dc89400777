"""What is checked of a data module's arguments when it is made, before there is any model."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
from datasets import Dataset
from lightning.pytorch.utilities import rank_zero_warn

from clipkit.data.columns import require_columns, stored
from clipkit.data.images import open_image
from clipkit.types import ArgumentError

__all__ = ["check_columns", "check_images", "check_lengths", "check_numbers", "check_stream"]

NUMBERS = ("int", "uint", "float", "bool")


def check_numbers(val_fraction: float, val: str | None, batch_size: int, workers: int, seed: int) -> None:
    """Check what needs no data.

    Raises:
        ArgumentError: For the argument at fault.
    """
    if not 0 <= val_fraction < 1:
        raise ArgumentError("val_fraction", f"{val_fraction} is not in [0, 1)")
    if val_fraction and val is not None:
        raise ArgumentError("val_fraction", "give this or `val`, not both")
    if batch_size < 1:
        raise ArgumentError("batch_size", f"{batch_size} is less than 1")
    if workers < 0:
        raise ArgumentError("workers", f"{workers} is less than 0")
    if seed < 0:
        raise ArgumentError("seed", f"{seed} is less than 0")


def check_stream(
    streamed: bool,
    epoch_steps: int | None,
    window: int,
    resample: bool,
    exact: bool,
    val_fraction: bool,
    distinct_concepts: bool,
) -> None:
    """Check what makes sense for a stream only, or for none.

    Raises:
        ArgumentError: For the argument at fault.
    """
    if not streamed:
        if epoch_steps is not None:
            raise ArgumentError("epoch_steps", "is for streams; of these data an epoch is every row once")
        if resample:
            raise ArgumentError("resample", "is for streams; these data are read by index, every row once an epoch")
        return
    if epoch_steps is None or epoch_steps < 1:
        raise ArgumentError(
            "epoch_steps", "say how many optimiser steps make an epoch: a stream's end is not known before"
        )
    if window < 1:
        raise ArgumentError("window", f"{window} is less than 1")
    if val_fraction:
        raise ArgumentError("val_fraction", "a stream cannot be split; name validation data: `val`")
    if distinct_concepts:
        raise ArgumentError("distinct_concepts", "needs data that are read by index; a stream comes as it is")
    if resample and exact:
        raise ArgumentError("resample", "draws shards with replacement, which `exact` forbids")
    if resample:
        rank_zero_warn(
            "not exact: shards are drawn with replacement, so some rows come again before others come at all"
        )


def check_lengths(by_length: bool, streamed: bool, distinct_concepts: bool) -> None:
    """Check that samples may be put in the order of their captions' lengths.

    Raises:
        ArgumentError: For a stream, which comes as it is, or beside batches that are put in order by concept.
    """
    if by_length and streamed:
        raise ArgumentError("by_length", "needs data that are read by index; a stream comes as it is")
    if by_length and distinct_concepts:
        raise ArgumentError("by_length", "puts other samples together than `distinct_concepts` does; give one of them")


def check_columns(rows: Dataset, concept: str, distinct_concepts: bool, extra: Sequence[str]) -> None:
    """Check that the concept's and the extra columns are there and hold what can be used.

    Raises:
        ArgumentError: For ``concept``, ``distinct_concepts`` or ``extra``.
    """
    if concept not in ("row", "caption"):
        require_columns(rows, [concept], "concept")
        _check_values(rows, concept, "concept", (*NUMBERS, "string", "large_string"))
    elif distinct_concepts:
        raise ArgumentError("distinct_concepts", "name the column that tells concepts apart: `concept`")
    require_columns(rows, extra, "extra")
    for name in extra:
        if name == "truncated":
            raise ArgumentError("extra", "'truncated' says whose caption was cut; rename the column")
        _check_values(rows, name, "extra", NUMBERS)


def check_images(rows: Dataset, image: str, argument: str, sample: int = 8) -> None:
    """Open an even sample of the images, to find a wrong column or folder; some bad ones among them are no matter.

    Raises:
        ArgumentError: For ``argument``, where none of the sample can be opened, or there is no row.
    """
    if not len(rows):
        raise ArgumentError("train" if argument == "image" else argument, "there is no row")
    images = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    numbers = np.unique(np.linspace(0, len(rows) - 1, sample).astype(int)).tolist()
    errors: list[Exception] = []
    for number in numbers:
        try:
            open_image(images[number][image])
        except Exception as error:  # decoders raise anything
            errors.append(error)
    if len(errors) == len(numbers):
        tried = f"none of {len(numbers)} rows tried in column {image!r} can be opened"
        raise ArgumentError(argument, f"{tried}; row {numbers[0]}: {errors[0]}") from errors[0]


def _check_values(rows: Dataset, name: str, argument: str, kinds: Sequence[str]) -> None:
    kind = str(getattr(rows.features[name], "dtype", "lists"))
    if not kind.startswith(tuple(kinds)):
        raise ArgumentError(argument, f"column {name!r} holds {kind}, not one of {', '.join(kinds)}")
    if stored(rows, name).null_count:
        raise ArgumentError(argument, f"column {name!r} has empty values")
