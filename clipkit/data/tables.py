"""Files of rows, here or on other machines, each read from any of its rows on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from datasets import Dataset, Features

from clipkit.data.by_library import suffix_of
from clipkit.data.columnar import arrow_features, arrow_rows, parquet_features, parquet_rows
from clipkit.data.columns import find_images
from clipkit.data.connections import in_one_line
from clipkit.data.lines import csv_features, csv_rows, json_features, json_rows
from clipkit.data.reach import Lost
from clipkit.data.remote import is_remote, public_name
from clipkit.data.sharded import KEY, SOURCE, TOP, Begin, ReadRows, Row, image_in
from clipkit.data.skips import Skipped, Unusable, reason_of, skipped
from clipkit.types import ArgumentError

__all__ = ["FileShards", "are_alike", "file_shards"]

MOST_TRIED = 100  # of the first files, to learn what the columns are


class _Kind(NamedTuple):
    """How a kind of file is read: its columns, and its rows from a place on."""

    features: Callable[[str], Features]
    rows: ReadRows


CSV, JSON = _Kind(csv_features, csv_rows), _Kind(json_features, json_rows)
PARQUET, ARROW = _Kind(parquet_features, parquet_rows), _Kind(arrow_features, arrow_rows)
KINDS = {".parquet": PARQUET, ".csv": CSV, ".tsv": CSV, ".json": JSON, ".jsonl": JSON, ".arrow": ARROW}


class FileShards(NamedTuple):
    """Files of rows, each a shard.

    Attributes:
        names: Paths or addresses, all of one kind.
        features: Of the first file that can be read, to which the others must conform.
        image: The column that holds images; paths in it are relative to the file.
    """

    names: Sequence[str]
    features: Features
    image: str | None = None

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        """See :class:`clipkit.data.sharded.Shards`."""
        file = self.names[shard]
        name = public_name(file)
        try:
            for at, row in KINDS[suffix_of(file)].rows(file, begin, self._features(columns)):
                yield at, [self._row(row, at.key, file, name)]
                begin = at._replace(within=at.within + 1)
        except Exception as error:  # readers raise anything, and what follows in the shard is lost with it
            yield begin, [skipped(name, begin.key, _told(error, file), None)]

    def _features(self, columns: Sequence[str] | None) -> Features:
        wanted = [name for name in self.features if columns is None or name in columns or name == self.image]
        return Features({name: self.features[name] for name in wanted})

    def _row(self, row: Row | Unusable, key: str, file: str, name: str) -> Row | Skipped:
        if isinstance(row, Unusable):
            return skipped(name, key, row, None)
        image = {} if self.image is None else {self.image: image_in(row[self.image], os.path.dirname(file))}
        return {KEY: key, SOURCE: name, **row, **image}


def are_alike(files: Sequence[str]) -> bool:
    """Whether all files are of one kind that is read here."""
    kinds = {KINDS.get(suffix_of(file)) for file in files}
    return len(kinds) == 1 and None not in kinds


def file_shards(files: Sequence[str], image: str | None) -> FileShards:
    """Files as shards; columns are those of the first that can be read.

    Args:
        files: Paths or addresses.
        image: The image column; None for the first that holds images.

    Raises:
        ArgumentError: For ``train``, where the files are of several kinds, or none of the first can be read.
    """
    if not are_alike(files):
        given = ", ".join(sorted({suffix_of(file) for file in files}))
        raise ArgumentError("train", f"{given}: give files of one of the kinds .tar, {', '.join(KINDS)}")
    lost, failed = Lost(), []
    for file in files[:MOST_TRIED]:
        try:
            features = KINDS[suffix_of(file)].features(file)
        except Exception as error:  # readers raise anything
            failed.append(skipped(public_name(file), "", _told(error, file), None))
            lost.count(failed[-1:])
            if lost.too_many:
                break
        else:
            return FileShards(files, features, find_images(Dataset(features.arrow_schema.empty_table()), image))
    first = failed[0]
    raise ArgumentError("train", f"{first.source!r} cannot be read: {first.message.removeprefix(f'{first.source}: ')}")


def _told(error: Exception, file: str) -> Unusable:
    """Which of ``REASONS`` it is that a file cannot be read."""
    if isinstance(error, Unusable):
        return error
    import aiohttp  # a quarter of a second, for those whose file fails

    reason = reason_of(error)
    if is_remote(file) and (reason != "undecodable" or isinstance(error, aiohttp.ClientError)):
        refused = isinstance(error, FileNotFoundError | PermissionError)
        return Unusable("refused_shard" if refused else "unreachable_shard", in_one_line(error, file))
    return Unusable("damaged_shard" if reason == "undecodable" else reason, in_one_line(error, file))
