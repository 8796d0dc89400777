"""Data that is read shard by shard: webdataset's tars, and whatever the ``datasets`` library streams."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from datasets import Dataset, Features, IterableDataset

from clipkit.data.connections import in_one_line
from clipkit.data.remote import is_remote, public_name
from clipkit.data.skips import Skipped, Unusable, reason_of, skipped

__all__ = [
    "KEY",
    "SKIPPED",
    "SOURCE",
    "TOP",
    "Begin",
    "IndexedShards",
    "ReadRows",
    "Row",
    "Shards",
    "TableShards",
    "image_in",
    "refuse_missing",
    "row_bytes",
]

Row = dict[str, Any]
KEY, SOURCE = "__key__", "__source__"
"""Columns that every row of a shard has: its name there, and the shard's."""
ROWS = 64
"""That are read at a time."""
SKIPPED = "__skipped__"
"""Column of ``as_dataset``: where something was left out, what, as JSON."""
MOST_TEXT = 16 << 20
"""Bytes of a text or JSON, which takes many times its size where it is read."""


def row_bytes(value: Any) -> int:
    """Bytes of what is read of a row: images, captions and whatever else; a letter beyond ASCII takes up to four."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) * (1 if value.isascii() else 4)
    if isinstance(value, dict):
        return sum(map(row_bytes, value.values()))
    return sum(map(row_bytes, value)) if isinstance(value, list) else 8


class Begin(NamedTuple):
    """Where reading begins in a shard, to be kept in a checkpoint.

    Attributes:
        byte: The byte, at which a row or several begin.
        row: Rows that lie before it.
        within: Rows after it that are passed over.
    """

    byte: int = 0
    row: int = 0
    within: int = 0

    @property
    def key(self) -> str:
        """What a row is called that has no name of its own."""
        return f"row {self.row + self.within}"


TOP = Begin()


class ReadRows(Protocol):
    """Reads the rows of a file of one kind."""

    def __call__(self, file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
        """The rows from a place on, and as little as can be of what lies before.

        Args:
            file: Path or address.
            begin: Where to begin.
            features: Of the columns to read.

        Returns:
            Where each row begins, and the row, or why there is none.

        Raises:
            Unusable: Where a column is missing; and whatever reading raises.
        """


class Shards(Protocol):
    """A number of shards, each read from any of its parts on."""

    @property
    def names(self) -> Sequence[str]:
        """Of the shards, in order."""

    @property
    def image(self) -> str | None:
        """The column that holds images."""

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        """What a shard holds, in order: where each part begins, and its rows or what had to be left out.

        Args:
            shard: Number of the shard.
            begin: Where to begin: at the top, or where a part begins.
            columns: Those that are wanted; None for all. Images are not decoded.
        """


class TableShards(NamedTuple):
    """What the ``datasets`` library alone can stream; on from a place it reads again what lies before.

    Attributes:
        rows: The data set; images are not decoded.
        names: Of its shards.
        image: The column that holds images.
    """

    rows: IterableDataset
    names: Sequence[str]
    image: str | None = None

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        """See :class:`Shards`."""
        name = public_name(self.names[shard])
        rows = self.rows.shard(num_shards=len(self.names), index=shard).skip(begin.within)
        try:
            for batch in rows.iter(1):  # in a worker the plain iterator leaves shards to other workers, on its own
                row = {column: values[0] for column, values in batch.items()}
                image = {} if self.image is None else {self.image: image_in(row[self.image], "")}
                yield begin, [{KEY: begin.key, SOURCE: name, **row, **image}]
                begin = begin._replace(within=begin.within + 1)
        except Exception as error:  # readers raise anything, and what follows in the shard is lost with it
            reason, away = reason_of(error), is_remote(self.names[shard])
            reason = "damaged_shard" if reason == "undecodable" else "unreachable_shard" if away else reason
            told = Unusable(reason, in_one_line(error, self.names[shard]))
            yield begin, [skipped(name, begin.key, told, None)]


class IndexedShards(NamedTuple):
    """Rows that can be read by index, as shards: read from any row on.

    Attributes:
        rows: The data set; images are not decoded.
        names: Of its shards, which are equal parts.
        image: The column that holds images.
    """

    rows: Dataset
    names: Sequence[str]
    image: str | None = None

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        """See :class:`Shards`."""
        wanted = [name for name in self.rows.column_names if columns is None or name in (*columns, self.image)]
        rows = self.rows.select_columns(wanted).shard(len(self.names), shard, contiguous=True)
        for start in range(begin.within, len(rows), ROWS):
            read = rows[start : start + ROWS]
            for number, values in enumerate(zip(*read.values(), strict=True), start):
                at = Begin(within=number)
                yield at, [{KEY: at.key, SOURCE: self.names[shard], **dict(zip(read, values, strict=True))}]


def refuse_missing(found: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a shard without a column that those before it had.

    Raises:
        Unusable: Naming the first, and those found.
    """
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None:
        raise Unusable("damaged_shard", f"it has no column {missing!r}: {', '.join(found)}")


def image_in(image: Any, folder: str) -> Any:
    """An image as a row has it, its path in the folder that it is relative to; where that is none, as it is."""
    image = {"bytes": None, "path": image} if isinstance(image, str) else image
    path = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else None
    if path and folder and not os.path.isabs(path) and not is_remote(path):
        return {**image, "path": os.path.join(folder, path)}
    return image
