"""Rows of parquet and Arrow files, read in pieces from any row on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import table_cast

from clipkit.data.by_library import library_features, library_rows
from clipkit.data.seekable import open_seekable
from clipkit.data.sharded import ROWS, Begin, Row, refuse_missing
from clipkit.data.skips import Unusable

__all__ = ["arrow_features", "arrow_rows", "parquet_features", "parquet_rows"]

BLOCK = 1 << 16  # bytes
MAGIC = b"ARROW1\0\0"  # before the stream, where a file has its index at its end


def parquet_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """See :class:`clipkit.data.sharded.ReadRows`; of what lies before, no more is read than is in its row group."""
    passed = begin.row + begin.within
    with open_seekable(file) as opened:
        parquet = pq.ParquetFile(opened)
        refuse_missing(parquet.schema_arrow.names, features)
        before = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if passed < before + rows:
                for batch in parquet.iter_batches(ROWS, [group], list(features), use_threads=False):
                    for number, row in enumerate(_rows(batch, features, passed - before), max(passed, before)):
                        yield Begin(0, 0, number), row
                    before += len(batch)
            else:
                before += rows


def arrow_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """The same of an Arrow file, with an index or without: a record batch is read whole, and none that lies before.

    One with dictionary-coded columns is read by the library, and from its start.
    """
    with _buffered(file) as opened:
        indexed, schema = _read_schema(opened)
        refuse_missing(schema.names, features)
        if any(map(_is_coded, schema.types)):
            yield from library_rows(file, begin, features)
            return
        first = begin if begin.byte else begin._replace(byte=opened.tell())
        for at, batch in _batches(opened, schema, first, indexed):
            passed = begin.within if at.byte == first.byte else 0
            if isinstance(batch, Unusable):
                yield at, batch
                continue
            for number, row in enumerate(_rows(batch.select(list(features)), features, passed), passed):
                yield at._replace(within=number), row


def arrow_features(file: str) -> Features:
    """The columns of an Arrow file."""
    with _buffered(file) as opened:
        _, schema = _read_schema(opened)
    return library_features(file) if any(map(_is_coded, schema.types)) else Features.from_arrow_schema(schema)


def parquet_features(file: str) -> Features:
    """The columns of a parquet file."""
    with open_seekable(file) as opened:
        return Features.from_arrow_schema(pq.ParquetFile(opened).schema_arrow)


def _buffered(file: str) -> BinaryIO:
    """With it a remote batch takes two requests: for what it is, and for itself."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, open_seekable(file)), BLOCK))


def _batches(
    file: BinaryIO, schema: pa.Schema, begin: Begin, indexed: bool
) -> Iterator[tuple[Begin, pa.RecordBatch | Unusable]]:
    file.seek(begin.byte)
    row = begin.row
    while True:
        at = Begin(file.tell(), row)
        try:
            message = pa.ipc.read_message(file)
        except EOFError:
            if indexed and file.tell() == at.byte:  # a mark should stand here, before the index
                raise Unusable("damaged_shard", "it is cut off") from None
            return
        batch = pa.ipc.read_record_batch(message, schema)
        row += len(batch)
        try:
            batch.validate(full=True)  # reading does not, and would end the process at a damaged offset
        except pa.ArrowInvalid as error:
            told = f"{len(batch)} rows that are stored together are damaged: {error}"
            yield at, Unusable("damaged_shard", told)
        else:
            yield at, batch


def _read_schema(file: BinaryIO) -> tuple[bool, pa.Schema]:
    """Whether the file has an index at its end, and its columns; it stands before the first batch then."""
    indexed = file.read(len(MAGIC)) == MAGIC
    if not indexed:
        file.seek(0)
    return indexed, pa.ipc.read_schema(pa.ipc.read_message(file))


def _is_coded(kind: pa.DataType) -> bool:
    """Whether numbers stand for its values, which are told before the batches and are not read here."""
    return pa.types.is_dictionary(kind) or any(_is_coded(kind.field(i).type) for i in range(kind.num_fields))


def _rows(batch: pa.RecordBatch, features: Features, passed: int) -> Iterator[Row | Unusable]:
    table = table_cast(pa.Table.from_batches([batch]), features.arrow_schema)
    for start in range(max(passed, 0), len(table), ROWS):
        yield from _listed(table.slice(start, ROWS))


def _listed(table: pa.Table) -> list[Row | Unusable]:
    try:
        rows: list[Row | Unusable] = table.to_pylist()
    except UnicodeDecodeError:
        if len(table) == 1:
            return [Unusable("bad_text", "it is not UTF-8")]
        return [row for number in range(len(table)) for row in _listed(table.slice(number, 1))]
    return rows
