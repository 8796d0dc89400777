"""Rows of CSV and JSON lines, read from any byte at which one begins; one that is damaged is left out, no more."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import datasets
import pyarrow as pa
from datasets import Features, IterableDataset, Value

from clipkit.data.connections import is_served
from clipkit.data.head import column_of
from clipkit.data.remote import is_remote, open_forwards
from clipkit.data.sharded import MOST_TEXT, Begin, Row, refuse_missing
from clipkit.data.skips import Unusable
from clipkit.data.source import READERS, options_of, quiet

__all__ = ["csv_features", "csv_rows", "json_features", "json_rows", "suffix_of"]

NO_VALUE = {"", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
NO_VALUE |= {"-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
"""What pandas, with which the same file is read by index, takes for no value."""
FIRST = 1000  # rows, by which kinds are told
KINDS: dict[str, tuple[Callable[[str], Any], ...]] = {
    "bool": ({"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}.__getitem__,),
    "int64": (int, float),
    "float64": (float,),
}
"""What a field is read as, by the kind of its column."""
BEGINNING = 1 << 16  # bytes that are asked for at once where only the first line is wanted
csv.field_size_limit(MOST_TEXT)  # 128 KB by default


def csv_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """The rows of a CSV or TSV file from a place on; of what lies before, only the header is read.

    Args:
        file: Path or address.
        begin: Where to begin.
        features: Of the columns to read.

    Returns:
        Where each row begins, and the row, or why there is none.

    Raises:
        Unusable: Where a column is missing; and whatever reading raises.
    """
    separator = options_of(suffix_of(file)).get("sep", ",")
    with open_forwards(file, begin=begin.byte) as opened:
        records = _records(_Lines(opened, begin.byte), separator)
        header = _header_of(file, separator) if begin.byte else _header(records)
        refuse_missing(header, features)
        for at, found in _counted(records, begin):
            yield at, found if isinstance(found, Unusable) else _csv_row(found, header, features)


def json_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """The same of JSON lines; a ``.json`` file that is one array is read by the library, and from its start."""
    with open_forwards(file, begin=begin.byte) as opened:
        lines = _json_lines(_Lines(opened, begin.byte))
        first = next(lines, None)
        if suffix_of(file) != ".json" or begin.byte or first is None or isinstance(_parsed(first[1]), dict):
            for at, line in _counted(chain([] if first is None else [first], lines), begin):
                yield at, _json_row(line, features)
            return
    for number, row in enumerate(_library_rows(file, list(features)).skip(begin.within).iter(1), begin.within):
        yield Begin(0, 0, number), {name: values[0] for name, values in row.items()}


def csv_features(file: str) -> Features:
    """The columns of a CSV or TSV file, and their kinds by its first rows; of these, damaged ones are passed over.

    Raises:
        Unusable: Where it is empty; and whatever reading raises.
    """
    separator = options_of(suffix_of(file)).get("sep", ",")
    with open_forwards(file, block=BEGINNING) as opened:
        records = _records(_Lines(opened, 0), separator)
        header = _header(records)
        rows = [fields for _, fields in islice(records, FIRST) if not isinstance(fields, Unusable)]
    columns = zip(*(row for row in rows if len(row) == len(header)), strict=True)
    kinds = dict(zip(header, map(_kind, columns), strict=False))  # there may be no rows
    return Features({name: Value(kinds.get(name, "string")) for name in header})


def json_features(file: str) -> Features:
    """The same of JSON lines, and of a ``.json`` file that is one array."""
    with open_forwards(file, block=BEGINNING) as opened:
        lines = [line for _, line in islice(_json_lines(_Lines(opened, 0)), FIRST)]
    if suffix_of(file) == ".json" and lines and not isinstance(_parsed(lines[0]), dict):
        rows = _library_rows(file)
        return (rows if rows.features else rows._resolve_features()).features
    good = [row for row in map(_parsed, lines) if isinstance(row, dict)]
    names = dict.fromkeys(name for row in good for name in row)
    arrays = {name: array for name in names if (array := column_of([row.get(name) for row in good])) is not None}
    return Features.from_arrow_schema(pa.table(arrays).schema)


def _library_rows(file: str, columns: Sequence[str] | None = None) -> IterableDataset:
    """A file as the ``datasets`` library streams it; images are not decoded."""
    suffix = suffix_of(file)
    options: dict[str, Any] = {**options_of(suffix)}
    if is_remote(file) and is_served(file):
        import aiohttp  # a quarter of a second, for those who read from the web

        options["storage_options"] = {
            "client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=60, sock_read=60)}
        }
    name = file if is_remote(file) else glob.escape(file)
    with quiet():
        rows = datasets.load_dataset(READERS[suffix], data_files=[name], split="train", streaming=True, **options)
    assert isinstance(rows, IterableDataset)
    return rows if columns is None else rows.select_columns(columns)


def suffix_of(file: str) -> str:
    """The suffix of a path or an address, lower-case."""
    return Path(urlsplit(file).path if is_remote(file) else file).suffix.lower()


class _LongLine(Unusable):
    """After which reading goes on."""


class _Lines:
    """The lines of a file as text, and the byte at which the next one begins."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self.file, self.at = file, at

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        begin, line = self.at, self._piece()
        if not line:
            raise StopIteration
        if len(line) > MOST_TEXT:
            while line and not line.endswith(b"\n"):
                line = self._piece()
            raise _LongLine("too_large", f"a line of {self.at - begin} bytes; {MOST_TEXT} are the most")
        # What is not UTF-8 is kept until it is known whether anybody wants that column.
        return line.decode("utf-8" if begin else "utf-8-sig", "surrogateescape")

    def _piece(self) -> bytes:
        line = self.file.readline(MOST_TEXT + 1)
        self.at += len(line)
        return line


def _counted(records: Iterator[tuple[int, Any]], begin: Begin) -> Iterator[tuple[Begin, Any]]:
    for number, (byte, record) in enumerate(records):
        if number >= begin.within:
            yield Begin(byte, begin.row + number), record


def _records(lines: _Lines, separator: str) -> Iterator[tuple[int, list[str] | Unusable]]:
    """The fields of each record, which may be of several lines, and the byte at which it begins."""
    while True:
        begin = lines.at
        try:
            fields = next(csv.reader(lines, delimiter=separator))
        except StopIteration:
            return
        except _LongLine as error:
            yield begin, error
        except csv.Error as error:
            yield begin, Unusable("bad_text", f"it is no CSV: {error}")
        else:
            if fields:  # pandas passes over empty lines
                yield begin, fields


def _header_of(file: str, separator: str) -> list[str]:
    with open_forwards(file, block=BEGINNING) as opened:
        return _header(_records(_Lines(opened, 0), separator))


def _header(records: Iterator[tuple[int, list[str] | Unusable]]) -> list[str]:
    """The names of the columns, as pandas makes them where one is empty or comes twice."""
    _, fields = next(records, (0, Unusable("damaged_shard", "it is empty")))
    if isinstance(fields, Unusable):
        raise fields
    names = [name or f"Unnamed: {place}" for place, name in enumerate(fields)]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{count}" if count else name for name, count in zip(names, before, strict=True)]


def _csv_row(fields: list[str], header: list[str], features: Features) -> Row | Unusable:
    if len(fields) > len(header):
        message = f"{len(fields)} fields under {len(header)} columns; what has a separator in it must be quoted"
        return Unusable("bad_text", message)
    fields += [""] * (len(header) - len(fields))
    try:
        return {name: _csv_value(fields[header.index(name)], kind) for name, kind in features.items()}
    except UnicodeError:
        return Unusable("bad_text", "it is not UTF-8")


def _kind(texts: Sequence[str]) -> str:
    """What pandas takes a column for."""
    some = [text for text in texts if text not in NO_VALUE]
    kinds = [kind for kind in KINDS if some and all(_read(text, kind) is not text for text in some)]
    kind = kinds[0] if kinds else "string"
    return "float64" if kind == "int64" and len(some) < len(texts) else kind


def _csv_value(text: str, kind: Any) -> Any:
    """What pandas makes of a field, in a column of that kind."""
    text.encode()
    return None if text in NO_VALUE else _read(text, getattr(kind, "dtype", ""))


def _read(text: str, kind: str) -> Any:
    for read in KINDS.get(kind, ()):
        try:
            return read(text)
        except (KeyError, ValueError):
            pass  # it is told where the column is used
    return text


def _json_lines(lines: _Lines) -> Iterator[tuple[int, str | Unusable]]:
    while True:
        begin = lines.at
        try:
            line = next(lines)
        except StopIteration:
            return
        except _LongLine as error:
            yield begin, error
        else:
            if not line.isspace():
                yield begin, line


def _json_row(line: str | Unusable, features: Features) -> Row | Unusable:
    row = _parsed(line)
    return row if isinstance(row, Unusable) else {name: row.get(name) for name in features}


def _parsed(line: str | Unusable) -> Row | Unusable:
    if isinstance(line, Unusable):
        return line
    try:
        line.encode()
        row = json.loads(line)
    except UnicodeError:
        return Unusable("bad_text", "it is not UTF-8")
    except (ValueError, RecursionError) as error:  # the latter where brackets are nested by the thousand
        return Unusable("bad_text", f"it is no JSON: {error}")
    if not isinstance(row, dict):
        return Unusable("bad_text", f"a line should be an object, as {{...}}, and is a {type(row).__name__}")
    return row
