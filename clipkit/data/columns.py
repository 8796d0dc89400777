"""The columns of captioned data: which are there, which holds the images, what is stored in them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import datasets
import pyarrow as pa
from datasets import Dataset, IterableDataset

from clipkit.types import ArgumentError

__all__ = [
    "IMAGE_COLUMNS",
    "find_images",
    "guess_column",
    "image_column",
    "may_hold_images",
    "plain_texts",
    "require_columns",
    "stored",
]

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "filepath", "file_name")


def image_column(rows: Dataset, given: str | None = None) -> str:
    """The image column: the one given, or the first.

    Raises:
        ArgumentError: For ``image``, where there is none, or the one given holds no images.
    """
    if given is not None:
        require_columns(rows, [given], "image")
    column = find_images(rows, given)
    if column is None or not isinstance(rows.features[column], datasets.Image):
        holds = ", ".join(f"{name} ({_kind(rows, name)})" for name in rows.column_names)
        which = f"{given!r} holds no images" if given else "no column is known to hold images; name it"
        raise ArgumentError("image", f"{which} (found {holds})")
    return column


def guess_column(rows: Dataset, given: str | None, usual: Sequence[str], argument: str) -> str:
    """The column given, or the first of some usual names that is there.

    Raises:
        ArgumentError: For ``argument``, naming the columns found.
    """
    if given is not None:
        require_columns(rows, [given], argument)
        return given
    for name in usual:
        if name in rows.column_names:
            return name
    found = ", ".join(rows.column_names)
    raise ArgumentError(argument, f"none of the usual columns ({', '.join(usual)}) is there (found {found}); name one")


def require_columns(rows: Dataset, names: Iterable[str], argument: str) -> None:
    """Check that columns exist.

    Raises:
        ArgumentError: For ``argument``, naming the nearest one and all there are.
    """
    for name in names:
        if name not in rows.column_names:
            near = difflib.get_close_matches(name, rows.column_names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ArgumentError(argument, f"there is no column {name!r}{hint} (found {', '.join(rows.column_names)})")


def stored(rows: Dataset, column: str) -> pa.ChunkedArray:
    """A column as Arrow stores it, nothing decoded."""
    return rows.select_columns([column]).with_format("arrow")[:].column(0)


def plain_texts(rows: Dataset) -> Dataset:
    """The rows, with None for the few values that are no text in a column of text, which JSON files may have."""
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Json):
            values = rows[name][:]
            texts = [value if isinstance(value, str) else None for value in values]
            others = sum(value is not None and not isinstance(value, str) for value in values)
            if sum(text is not None for text in texts) > others:
                rows = rows.remove_columns(name).add_column(name, texts, feature=datasets.Value("string"))
    return rows


def find_images(rows: Dataset | IterableDataset, given: str | None = None) -> str | None:
    """The column given, or the first that holds images or has a usual name; None where there is none."""
    features = rows.features or {}  # a copy each time
    if given in features:
        return given
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    usual = [name for name in IMAGE_COLUMNS if name in features and may_hold_images(features[name])]
    return next(iter((*typed, *usual)), None)


def may_hold_images(feature: object) -> bool:
    """Whether a column of this kind can be paths or contents of images."""
    if isinstance(feature, dict):
        return bool(feature) and set(feature) <= {"bytes", "path"}
    kind = getattr(feature, "dtype", None)
    return isinstance(feature, datasets.Image) or kind in ("string", "large_string", "binary", "large_binary")


def _kind(rows: Dataset, name: str) -> str:
    feature = rows.features[name]
    return str(getattr(feature, "dtype", None) or type(feature).__name__)
