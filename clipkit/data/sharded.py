"""Data that is read shard by shard: webdataset's tars, and whatever the ``datasets`` library streams."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value

from clipkit.data.connections import in_one_line
from clipkit.data.reach import Lost
from clipkit.data.remote import is_remote, open_forwards, public_name
from clipkit.data.shards import ShardSample, read_shard
from clipkit.data.skips import Skipped, Unusable, reason_of, skipped

__all__ = [
    "KEY",
    "SKIPPED",
    "SOURCE",
    "Row",
    "Shards",
    "TableShards",
    "TarShards",
    "as_dataset",
    "head",
    "image_in",
    "row_bytes",
]

Row = dict[str, Any]
KEY, SOURCE = "__key__", "__source__"
"""Columns that every row of a shard has: its name there, and the shard's."""
SKIPPED = "__skipped__"
"""Column of ``as_dataset``: where something was left out, what, as JSON."""
IMAGE_MEMBERS = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
HEAD = 256
NOT_STORED = (pa.ArrowException, ValueError, OverflowError)
MOST_TEXT = 16 << 20
"""Bytes of a text or JSON, which takes many times its size where it is read."""
MOST_LOOKED_AT = 256 << 20
"""Bytes of the rows by which columns are told apart."""


def row_bytes(value: Any) -> int:
    """Bytes of what is read of a row: images, captions and whatever else; a letter beyond ASCII takes up to four."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) * (1 if value.isascii() else 4)
    if isinstance(value, dict):
        return sum(map(row_bytes, value.values()))
    return sum(map(row_bytes, value)) if isinstance(value, list) else 8


class Shards(Protocol):
    """A number of shards, each read from any of its parts on."""

    @property
    def names(self) -> Sequence[str]:
        """Of the shards, in order."""

    @property
    def image(self) -> str | None:
        """The column that holds images."""

    def parts(
        self, shard: int, begin: int = 0, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, list[Row | Skipped]]]:
        """What a shard holds, in order: where each part begins, and its rows or what had to be left out.

        Args:
            shard: Number of the shard.
            begin: Where to begin: 0, or where a part begins.
            columns: Those that are wanted; None for all. Images are not decoded.
        """


class TarShards(NamedTuple):
    """Webdataset's tar archives: members that share a name are a row, what follows the first dot is the column.

    Fields of a ``json`` member are columns too.

    Attributes:
        names: Paths or addresses.
        members: The image is the first of these that is there.
        image: What its column is called.
    """

    names: Sequence[str]
    members: Sequence[str] = IMAGE_MEMBERS
    image: str | None = "image"

    def parts(
        self, shard: int, begin: int = 0, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, list[Row | Skipped]]]:
        """See :class:`Shards`."""
        name = public_name(self.names[shard])
        try:
            with open_forwards(self.names[shard], begin=begin) as file:
                for part in read_shard(file, name, begin):
                    begin = part.begin
                    yield begin, [self._row(item, columns) for item in part.items]
        except (OSError, Unusable) as error:
            failed = reason_of(error) == "undecodable"  # an OSError with no number
            yield begin, [skipped(name, "", Unusable("unreadable_file", str(error)) if failed else error, None)]

    def _row(self, item: ShardSample | Skipped, columns: Sequence[str] | None) -> Row | Skipped:
        if isinstance(item, Skipped):
            return item
        found = next((member for member in self.members if member in item.members), None)
        if found is None:
            message = f"it has none of {', '.join(self.members)} (it has {', '.join(item.members)})"
            return Skipped(item.shard, item.key, "missing_member", message, None)
        data = item.members[found]
        try:
            fields = _fields(item, [name for name in columns if name != self.image] if columns is not None else None)
        except ValueError as error:
            return skipped(item.shard, item.key, error, data)
        image = {self.image or "image": {"bytes": data, "path": f"{item.key}.{found}"}}
        return {**fields, KEY: item.key, SOURCE: item.shard, **image}  # a json may have fields of those names, too


class TableShards(NamedTuple):
    """What the ``datasets`` library streams, or rows that it has; on from a place it reads again what lies before.

    Attributes:
        rows: The data set; images are not decoded.
        names: Of its shards.
        image: The column that holds images.
    """

    rows: IterableDataset
    names: Sequence[str]
    image: str | None = None

    def parts(
        self, shard: int, begin: int = 0, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, list[Row | Skipped]]]:
        """See :class:`Shards`."""
        name = public_name(self.names[shard])
        rows = self.rows.shard(num_shards=len(self.names), index=shard).skip(begin)
        try:
            for batch in rows.iter(1):  # in a worker the plain iterator leaves shards to other workers, on its own
                row = {column: values[0] for column, values in batch.items()}
                image = {} if self.image is None else {self.image: image_in(row[self.image], "")}
                yield begin, [{KEY: f"row {begin}", SOURCE: name, **row, **image}]
                begin += 1
        except Exception as error:  # readers raise anything, and what follows in the shard is lost with it
            reason, away = reason_of(error), is_remote(self.names[shard])
            reason = "damaged_shard" if reason == "undecodable" else "unreachable_shard" if away else reason
            told = Unusable(reason, in_one_line(error, self.names[shard]))
            yield begin, [skipped(name, f"row {begin}", told, None)]


def image_in(image: Any, folder: str) -> Any:
    """An image as a row has it, its path in the folder that it is relative to; where that is none, as it is."""
    image = {"bytes": None, "path": image} if isinstance(image, str) else image
    path = image.get("path") if isinstance(image, dict) and image.get("bytes") is None else None
    if path and folder and not os.path.isabs(path) and not is_remote(path):
        return {**image, "path": os.path.join(folder, path)}
    return image


def head(shards: Shards, rows: int = HEAD, most_bytes: float = MOST_LOOKED_AT) -> tuple[Dataset, list[Skipped]]:
    """The first rows with all their columns, by which names and kinds are checked, and what was left out among them."""
    found: list[Row | Skipped] = []
    good: list[Row] = []
    for item in islice(_first_items(shards), 4 * rows):
        found.append(item)
        good += [] if isinstance(item, Skipped) else [item]
        most_bytes -= 0 if isinstance(item, Skipped) else row_bytes(item)
        if len(good) == rows or most_bytes < 0:
            break
    columns = list(dict.fromkeys(name for row in good for name in row if name not in (KEY, SOURCE)))
    arrays = {name: array for name in columns if (array := _array([row.get(name) for row in good])) is not None}
    made = Dataset(pa.table(arrays))
    if shards.image in arrays:
        made = made.cast_column(shards.image, datasets.Image())
    return made, [one for one in found if isinstance(one, Skipped)]


def _first_items(shards: Shards) -> Iterator[Row | Skipped]:
    """The items of all shards, in order, until too many in a row are out of reach."""
    lost = Lost()
    for shard in range(len(shards.names)):
        for item in _items(shards, shard):
            lost.count([item])
            yield item
        if lost.too_many:
            return


def _array(values: list[Any]) -> pa.Array | None:
    """A column; where a few of its values are of another kind, without those, for they are met again in training."""
    try:
        return pa.array(values)
    except NOT_STORED:
        usual, count = Counter(type(value) for value in values if value is not None).most_common(1)[0]
        of_usual = [value if type(value) is usual and _is_stored(value) else None for value in values]
    try:
        return pa.array(of_usual) if count > len(values) // 2 else None
    except NOT_STORED:  # lists of several kinds: no column that can be used
        return None


def _is_stored(value: Any) -> bool:
    try:
        pa.array([value])
    except NOT_STORED:
        return False
    return True


def _items(shards: Shards, shard: int) -> Iterator[Row | Skipped]:
    return (item for _, items in shards.parts(shard) for item in items)


def as_dataset(shards: Shards) -> IterableDataset:
    """The rows as the ``datasets`` library streams them, images not decoded; a row for what is left out, too.

    The columns are those of the first rows, with ``KEY``, ``SOURCE`` and ``SKIPPED``.
    """
    rows, _ = head(shards)
    features = Features({KEY: Value("string"), SOURCE: Value("string"), SKIPPED: Value("string"), **rows.features})
    if shards.image in features:
        features[shards.image] = datasets.Image(decode=False)
    every = list(range(len(shards.names)))
    return IterableDataset.from_generator(_rows_of, features, gen_kwargs={"shards": _Every(shards), "numbers": every})


class _Every(NamedTuple):
    """The shards as one thing, where the library would deal out the items of a list."""

    shards: Shards


def _rows_of(shards: _Every, numbers: Sequence[int]) -> Iterator[Row]:
    for number in numbers:
        for item in _items(shards.shards, number):
            if isinstance(item, Skipped):
                yield {KEY: item.key, SOURCE: item.source, SKIPPED: json.dumps(item)}
            else:
                yield {**item, SKIPPED: None}


def _fields(sample: ShardSample, columns: Sequence[str] | None) -> Row:
    """The columns beside the image: texts, and what the sample's JSON says.

    Raises:
        UnicodeDecodeError: Where a text is not UTF-8.
        Unusable: Where the JSON is none.
    """
    if columns is None:
        others = {name: _text(data) for name, data in sample.members.items() if name not in (*IMAGE_MEMBERS, "json")}
        return {**_json(sample), **{name: text for name, text in others.items() if text is not None}}
    texts = {name: data for name, data in sample.members.items() if name in columns}
    told = _json(sample) if any(name not in texts for name in columns) else {}
    return {name: _small(texts[name]).decode("utf-8-sig") if name in texts else told.get(name) for name in columns}


def _json(sample: ShardSample) -> Row:
    if "json" not in sample.members:
        return {}
    try:
        told = json.loads(_small(sample.members["json"]))
    except Unusable:
        raise
    except (ValueError, RecursionError) as error:  # the latter where brackets are nested by the thousand
        raise Unusable("bad_text", f"its json cannot be read: {error}") from error
    return told if isinstance(told, dict) else {}


def _small(text: bytes) -> bytes:
    if len(text) > MOST_TEXT:
        raise Unusable("too_large", f"a text of {len(text)} bytes; {MOST_TEXT} are the most")
    return text


def _text(data: bytes) -> str | None:
    try:
        return None if len(data) > MOST_TEXT or b"\0" in data else data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
