"""Rows of CSV and JSON lines, read from any byte at which one begins; one that is damaged is left out, no more."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from datasets import Features, Value

from clipkit.data.by_library import library_features, library_rows, suffix_of
from clipkit.data.head import column_of
from clipkit.data.remote import open_forwards
from clipkit.data.sharded import MOST_TEXT, Begin, Row, refuse_missing
from clipkit.data.skips import Unusable
from clipkit.data.source import options_of

__all__ = ["csv_features", "csv_rows", "json_features", "json_rows"]

NO_VALUE = {"", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
NO_VALUE |= {"-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
"""What pandas, with which the same file is read by index, takes for no value."""
FIRST = 1000  # rows, by which kinds are told
CARRIAGE_RETURN = "a carriage return stands in it; quote it, and let lines end with a line feed"
MOST_LOOKED_AT = 8 << 20  # bytes of them
KINDS: dict[str, tuple[Callable[[str], Any], ...]] = {
    "bool": ({"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}.__getitem__,),
    "int64": (int, float),
    "float64": (float,),
}
"""What a field is read as, by the kind of its column."""
BEGINNING = 1 << 16  # bytes that are asked for at once where only the first line is wanted
csv.field_size_limit(MOST_TEXT)  # 128 KB by default


def csv_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """See :class:`clipkit.data.sharded.ReadRows`; of what lies before in a CSV or TSV file, only the header is read."""
    separator = options_of(suffix_of(file)).get("sep", ",")
    with open_forwards(file, begin=begin.byte) as opened:
        records = _records(_Lines(opened, begin.byte), separator)
        header = _header_of(file, separator) if begin.byte else _header(records)
        refuse_missing(header, features)
        for at, found in _counted(records, begin):
            yield at, found if isinstance(found, Unusable) else _csv_row(found, header, features)


def json_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row | Unusable]]:
    """The same of JSON lines; a file that is one array or object is read by the library, and from its start."""
    if not begin.byte and _is_one(file):
        yield from library_rows(file, begin, features)
        return
    with open_forwards(file, begin=begin.byte) as opened:
        for at, line in _counted(_json_lines(_Lines(opened, begin.byte)), begin):
            yield at, _json_row(line, features)


def csv_features(file: str) -> Features:
    """The columns of a CSV or TSV file, and their kinds by its first rows; of these, damaged ones are passed over.

    Raises:
        Unusable: Where it is empty; and whatever reading raises.
    """
    separator = options_of(suffix_of(file)).get("sep", ",")
    with open_forwards(file, block=BEGINNING) as opened:
        records = _records(_Lines(opened, 0), separator)
        header = _header(records)
        rows = [fields for fields in _first(records) if not isinstance(fields, Unusable)]
    columns = zip(*(row for row in rows if len(row) == len(header)), strict=True)
    kinds = dict(zip(header, map(_kind, columns), strict=False))  # there may be no rows
    return Features({name: Value(kinds.get(name, "string")) for name in header})


def json_features(file: str) -> Features:
    """The same of JSON lines, and of a file that is one array or object."""
    if _is_one(file):
        return library_features(file)
    with open_forwards(file, block=BEGINNING) as opened:
        lines = _first(_json_lines(_Lines(opened, 0)))
    good = [row for row in map(_parsed, lines) if isinstance(row, dict)]
    names = dict.fromkeys(name for row in good for name in row)
    arrays = {name: array for name in names if (array := column_of([row.get(name) for row in good])) is not None}
    return Features.from_arrow_schema(pa.table(arrays).schema)


def _first(records: Iterator[tuple[int, Any]]) -> list[Any]:
    return [record for byte, record in islice(records, FIRST) if byte < MOST_LOOKED_AT]


def _is_one(file: str) -> bool:
    """Whether a file is one JSON array or object, and not lines."""
    with open_forwards(file, block=BEGINNING) as opened:
        start = opened.read(BEGINNING).removeprefix(codecs.BOM_UTF8).lstrip()
    line, more, _ = start.partition(b"\n")
    if not line.startswith(b"["):
        return line.strip() == b"{"
    try:
        return not more or any(isinstance(row, dict) for row in json.loads(line))
    except ValueError:
        return True


class _LongLine(Unusable):
    """After which reading goes on."""


class _Lines:
    """The lines of a file as text, and the byte at which the next one begins."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self.file, self.at, self.ended = file, at, False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        begin, line = self.at, self._piece()
        if not line:
            self.ended = True
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
            told = CARRIAGE_RETURN if str(error).startswith("new-line") else error
            yield begin, Unusable("bad_text", f"it is no CSV: {told}")
        else:
            if lines.ended:  # a line more was asked for
                yield begin, Unusable("bad_text", "it is no CSV: nothing closes a quote that is opened here")
            elif len(fields) > 1 or "".join(fields).strip():  # pandas passes over empty lines
                yield begin, fields


def _header_of(file: str, separator: str) -> list[str]:
    with open_forwards(file, block=BEGINNING) as opened:
        return _header(_records(_Lines(opened, 0), separator))


def _header(records: Iterator[tuple[int, list[str] | Unusable]]) -> list[str]:
    """The names of the columns, as pandas makes them where one is empty or comes twice."""
    _, fields = next(records, (0, Unusable("damaged_shard", "it is empty")))
    if isinstance(fields, Unusable):
        raise fields
    if any(map(_is_foreign, fields)):
        raise Unusable("bad_text", "its header is not UTF-8")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(fields)]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{count}" if count else name for name, count in zip(names, before, strict=True)]


def _csv_row(fields: list[str], header: list[str], features: Features) -> Row | Unusable:
    if len(fields) > len(header):
        message = f"{len(fields)} fields under {len(header)} columns; what has a separator in it must be quoted"
        return Unusable("bad_text", message)
    fields += [""] * (len(header) - len(fields))
    texts = {name: fields[header.index(name)] for name in features}
    if any(map(_is_foreign, texts.values())):
        return Unusable("bad_text", "it is not UTF-8")
    return {name: _csv_value(text, features[name]) for name, text in texts.items()}


def _kind(texts: Sequence[str]) -> str:
    """What pandas takes a column for."""
    some = [text for text in texts if text not in NO_VALUE]
    kinds = [kind for kind in KINDS if some and all(_read(text, kind) is not text for text in some)]
    kind = kinds[0] if kinds else "string"
    return "float64" if kind == "int64" and len(some) < len(texts) else kind


def _csv_value(text: str, kind: Any) -> Any:
    """What pandas makes of a field, in a column of that kind."""
    return None if text in NO_VALUE else _read(text, getattr(kind, "dtype", ""))


def _read(text: str, kind: str) -> Any:
    plain = text.isascii() and "_" not in text  # Python reads numbers of other scripts, and parted ones
    for read in KINDS.get(kind, ()) if plain else ():
        try:
            return read(text)
        except (KeyError, ValueError):
            pass  # it is told where the column is used
    return text


def _is_foreign(text: str) -> bool:
    """Whether bytes that are not UTF-8 are kept in it."""
    try:
        text.encode()
    except UnicodeError:
        return True
    return False


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
    if _is_foreign(line):
        return Unusable("bad_text", "it is not UTF-8")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter where brackets are nested by the thousand
        return Unusable("bad_text", f"it is no JSON: {error}")
    if not isinstance(row, dict):
        return Unusable("bad_text", f"a line should be an object, as {{...}}, and is a {type(row).__name__}")
    return row
