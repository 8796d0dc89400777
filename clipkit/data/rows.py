"""Rows of a memory-mapped data set, with the bytes of their images left where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    columns[image] = [_encoded(value) for value in table[image]]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _encoded(value: pa.StructScalar) -> dict[str, Any] | None:
    if not value.is_valid:
        return None
    data = value["bytes"]
    return {"bytes": memoryview(data.as_buffer()) if data.is_valid else None, "path": value["path"].as_py()}
