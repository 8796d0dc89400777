"""Which of many files is at fault, where reading all of them as one data set failed."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.table import table_cast

__all__ = ["file_at_fault"]


def file_at_fault(kind: str, files: Sequence[Path], options: dict[str, str]) -> Path | None:
    """The first file that cannot be read, or whose columns are not those of the first one; None where there is none.

    The library says what is wrong, and mostly not where. Files are read again for this, up to the one that is found.

    Args:
        kind: The library's name of their format.
        files: In the order in which they are read.
        options: Of the format.
    """
    schema = None
    for file in files:
        try:
            name = glob.escape(str(file))
            rows = datasets.load_dataset(kind, data_files=name, split="train", streaming=True, **options)
            for table in rows.with_format("arrow").iter(1000):
                schema = schema or table.schema
                table_cast(table, schema)
        except Exception:  # readers raise anything
            return file
    return None
