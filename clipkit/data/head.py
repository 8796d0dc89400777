"""What is in shards, told by their first rows, and their rows as the ``datasets`` library streams them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value

from clipkit.data.reach import Lost
from clipkit.data.sharded import KEY, SKIPPED, SOURCE, Row, Shards, row_bytes
from clipkit.data.skips import Skipped, Unusable, skipped

__all__ = ["as_dataset", "column_of", "head"]

HEAD = 256
NOT_STORED = (pa.ArrowException, ValueError, OverflowError)
MOST_LOOKED_AT = 256 << 20
"""Bytes of the rows by which columns are told apart."""


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
    arrays = {name: array for name in columns if (array := column_of([row.get(name) for row in good])) is not None}
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


def column_of(values: list[Any]) -> pa.Array | None:
    """A column; where a few of its values are of another kind, without those, which are met again in training."""
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
    kwargs = {"shards": _Every(shards, features), "numbers": every}
    return IterableDataset.from_generator(_rows_of, features, gen_kwargs=kwargs)


class _Every(NamedTuple):
    """The shards as one thing, where the library would deal out the items of a list."""

    shards: Shards
    features: Features


def _rows_of(shards: _Every, numbers: Sequence[int]) -> Iterator[Row]:
    for number in numbers:
        for item in _items(shards.shards, number):
            found = item if isinstance(item, Skipped) else _alike(item, shards.features)
            if isinstance(found, Skipped):
                yield {KEY: found.key, SOURCE: found.source, SKIPPED: json.dumps(found)}
            else:
                yield {**found, SKIPPED: None}


def _alike(row: Row, features: Features) -> Row | Skipped:
    """A row; where it is not of the kinds of the first ones, at which the library would end, what to say of it."""
    try:
        features.encode_example({name: row.get(name) for name in features})
    except Exception as error:  # it raises whatever a conversion does
        return skipped(row[SOURCE], row[KEY], Unusable("bad_value", str(error)), None)
    return row
