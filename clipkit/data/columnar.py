"""Rows of parquet and Arrow files, read in pieces from any row on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import table_cast

from clipkit.data.seekable import open_seekable
from clipkit.data.sharded import Begin, Row, refuse_missing
from clipkit.data.skips import Unusable

__all__ = ["arrow_features", "arrow_rows", "parquet_features", "parquet_rows"]

BLOCK = 1 << 16  # bytes
ROWS = 64  # that are made of a row group or a record batch at a time
MAGIC = b"ARROW1\0\0"  # before the stream, where a file has its index at its end


def parquet_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row]]:
    """The rows from one on; of what lies before, no more is read than is in its row group.

    Args:
        file: Path or address.
        begin: Where to begin.
        features: Of the columns to read.

    Returns:
        Where each row begins, and the row.

    Raises:
        Unusable: Where a column is missing; and whatever reading raises.
    """
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


def arrow_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row]]:
    """The same of an Arrow file, with an index or without: of what lies before, no more than is in its record batch."""
    with _buffered(file) as opened:
        schema = _read_schema(opened)
        refuse_missing(schema.names, features)
        first = begin if begin.byte else begin._replace(byte=opened.tell())
        for at, batch in _batches(opened, schema, first):
            passed = begin.within if at.byte == first.byte else 0
            for number, row in enumerate(_rows(batch.select(list(features)), features, passed), passed):
                yield at._replace(within=number), row


def arrow_features(file: str) -> Features:
    """The columns of an Arrow file."""
    with _buffered(file) as opened:
        return Features.from_arrow_schema(_read_schema(opened))


def parquet_features(file: str) -> Features:
    """The columns of a parquet file."""
    with open_seekable(file) as opened:
        return Features.from_arrow_schema(pq.ParquetFile(opened).schema_arrow)


def _buffered(file: str) -> BinaryIO:
    """With it a remote batch takes two requests: for what it is, and for itself."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, open_seekable(file)), BLOCK))


def _batches(file: BinaryIO, schema: pa.Schema, begin: Begin) -> Iterator[tuple[Begin, pa.RecordBatch]]:
    file.seek(begin.byte)
    row = begin.row
    while True:
        at = Begin(file.tell(), row)
        try:
            message = pa.ipc.read_message(file)
        except EOFError:
            return
        batch = pa.ipc.read_record_batch(message, schema)
        row += len(batch)
        yield at, batch


def _read_schema(file: BinaryIO) -> pa.Schema:
    if file.read(len(MAGIC)) != MAGIC:
        file.seek(0)
    schema = pa.ipc.read_schema(pa.ipc.read_message(file))
    coded = next((field.name for field in schema if pa.types.is_dictionary(field.type)), None)
    if coded is not None:
        raise Unusable("damaged_shard", f"its column {coded!r} is dictionary-coded: cast it to its values' type")
    return schema


def _rows(batch: pa.RecordBatch, features: Features, passed: int) -> Iterator[Row]:
    table = table_cast(pa.Table.from_batches([batch]), features.arrow_schema)
    for start in range(max(passed, 0), len(table), ROWS):
        yield from table.slice(start, ROWS).to_pylist()
