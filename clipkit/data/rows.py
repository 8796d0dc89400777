"""Rows of a memory-mapped data set, with the bytes of their images left where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image

__all__ = ["mapped", "read_rows"]


def mapped(rows: Dataset, columns: Sequence[str], image: str) -> Dataset:
    """Only some columns, read as Arrow and with images left encoded, for ``read_rows``."""
    return rows.select_columns(sorted(set(columns))).cast_column(image, Image(decode=False)).with_format("arrow")


def read_rows(rows: Dataset, numbers: Sequence[int], image: str) -> list[dict[str, Any]]:
    """Several rows in one go.

    Args:
        rows: As ``mapped`` gives them.
        numbers: Which.
        image: The image column.

    Returns:
        Column to value of each; of an image ``{"bytes", "path"}`` or None, its bytes a memoryview of the mapped file:
        copying 200 kB of packed pixels a row would take as long as all the rest but the resize.

    Raises:
        UnicodeDecodeError: For text that is not UTF-8, in any of the rows.
    """
    table = rows[list(numbers)]
    columns = {name: table[name].to_pylist() for name in table.column_names if name != image}
    columns[image] = [value for chunk in table[image].chunks for value in _encoded(chunk)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _encoded(images: pa.StructArray) -> Iterator[dict[str, Any] | None]:
    data = images.field("bytes")
    _, places, values = data.buffers()  # a scalar of Arrow would be a copy
    ends = np.frombuffer(places, dtype=np.int32, count=data.offset + len(data) + 1)[data.offset :].tolist()
    view, there = memoryview(values or b"").cast("B"), _valid(data)  # Arrow's own are signed
    rows = zip(_valid(images), there, images.field("path").to_pylist(), pairwise(ends), strict=True)
    for row, some, path, (start, end) in rows:
        yield {"bytes": view[start:end] if some else None, "path": path} if row else None


def _valid(values: pa.Array) -> list[bool]:
    return values.is_valid().to_pylist() if values.null_count else [True] * len(values)
