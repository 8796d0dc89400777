"""The rows of a source one after the other, as the loader would find them: usable, or skipped with a reason."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import parent_process
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from datasets import Dataset, IterableDataset
from PIL import Image

from clipkit.data.captions import CaptionChoice
from clipkit.data.images import open_image
from clipkit.data.sharded import KEY, SKIPPED, SOURCE
from clipkit.data.skips import Skipped, skipped

__all__ = ["Chunk", "Usable", "in_order", "read_chunks", "read_table", "scan"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Chunk(NamedTuple):
    """Some rows that follow one another, on their way to another process.

    Attributes:
        number: Which chunk of the source.
        first: Number of its first row in the source.
        stream: An Arrow IPC stream; a pickled slice of a table may bring the rest of the table along.
    """

    number: int
    first: int
    stream: bytes


class Usable(NamedTuple):
    """A row that the loader can use: its place in the chunk, its image and its captions, one at least."""

    place: int
    image: Image.Image
    captions: list[str]


def read_chunks(
    rows: Dataset | IterableDataset, size: int, begin: int = 0, limit: int | None = None
) -> Iterator[Chunk]:
    """The rows in chunks, nothing decoded; they are iterated and never indexed, so a stream will do.

    Args:
        rows: The data set.
        size: Rows a chunk.
        begin: The first chunk to give; those before are passed over.
        limit: Stop after this many rows of the source.
    """
    rows = rows if limit is None else rows.take(limit)
    rows = rows.skip(begin * size) if begin else rows
    numbers = itertools.count(begin)
    for table in _tables(rows, size):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        number = next(numbers)
        yield Chunk(number, number * size, sink.getvalue().to_pybytes())


def _tables(rows: Dataset | IterableDataset, size: int) -> Iterator[pa.Table]:
    if isinstance(rows, Dataset):
        yield from rows.with_format("arrow").iter(batch_size=size)
        return
    # A stream's own arrow format guesses a type for each example, and fails where an empty list follows a full one.
    schema = rows.features.arrow_schema
    examples = iter(rows.decode(False))
    while some := list(itertools.islice(examples, size)):
        yield pa.Table.from_pylist(some, schema=schema)


def read_table(chunk: Chunk) -> pa.Table:
    """The rows of a chunk."""
    return pa.ipc.open_stream(chunk.stream).read_all()


def scan(table: pa.Table, first: int, image: str, choice: CaptionChoice) -> Iterator[Usable | Skipped]:
    """Open every row as the loader does.

    Args:
        table: Rows as Arrow stores them.
        first: Number of the first one in the source.
        image: The image column.
        choice: The caption columns.

    Yields:
        One for each row, in order.
    """
    columns = {name: table.column(name) for name in {image, *choice.columns, *choice.language_of.values()}}
    left_out = table.column(SKIPPED) if SKIPPED in table.column_names else None
    for place in range(len(table)):
        if left_out is not None and left_out[place].is_valid:
            yield Skipped(*json.loads(left_out[place].as_py()))
            continue
        row: dict[str, Any] = {}
        try:
            row[image] = columns[image][place].as_py()
            row |= {name: column[place].as_py() for name, column in columns.items() if name != image}
            picture, found = open_image(row[image]), choice.candidates(row)
            choice.draw(found, None)  # where there is none it says so
            yield Usable(place, picture, [text for texts in found.values() for text in texts])
        except Exception as error:  # decoders raise anything
            value = row.get(image) or {}
            where = value.get("path") if isinstance(value, dict) else None
            source, key = where or "the rows", f"row {first + place}"
            if left_out is not None:
                source, key = (table.column(name)[place].as_py() for name in (SOURCE, KEY))
            yield skipped(source, key, error, value)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``map`` over processes that keeps the order and holds few items at a time, so that a stream may have no end.

    Args:
        work: What can be pickled.
        items: Taken as they are needed.
        workers: Processes; 0 works in this one.
    """
    if workers == 0:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A killed parent closes no pipe that its children hold too: they would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = parent_process()

    def watch() -> None:
        with suppress(Exception):
            if parent is not None:
                parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
