"""Files of rows, here or on other machines: parquet read from any row group on, others from their start."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset
from datasets.table import table_cast

from clipkit.data.columns import find_images
from clipkit.data.connections import in_one_line, is_served
from clipkit.data.reach import Lost
from clipkit.data.remote import is_remote, public_name
from clipkit.data.seekable import open_seekable
from clipkit.data.sharded import KEY, SOURCE, Row, image_in
from clipkit.data.skips import Skipped, Unusable, reason_of, skipped
from clipkit.data.source import READERS, options_of, quiet
from clipkit.types import ArgumentError

__all__ = ["FileShards", "file_shards"]

ROWS = 64  # that are made of a row group at a time
MOST_TRIED = 100  # of the first files, to learn what the columns are


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
        self, shard: int, begin: int = 0, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, list[Row | Skipped]]]:
        """See :class:`clipkit.data.sharded.Shards`; what lies before ``begin`` in a parquet file is not read."""
        file = self.names[shard]
        name = public_name(file)
        try:
            for row in self._rows(file, begin, columns):
                image = {} if self.image is None else {self.image: image_in(row[self.image], os.path.dirname(file))}
                yield begin, [{KEY: f"row {begin}", SOURCE: name, **row, **image}]
                begin += 1
        except Exception as error:  # readers raise anything, and what follows in the shard is lost with it
            yield begin, [skipped(name, f"row {begin}", _told(error, file), None)]

    def _rows(self, file: str, begin: int, columns: Sequence[str] | None) -> Iterator[Row]:
        if _suffix(file) == ".parquet":
            wanted = [name for name in self.features if columns is None or name in columns or name == self.image]
            return _of_parquet(file, begin, Features({name: self.features[name] for name in wanted}))
        rows = _stream(file)
        if isinstance((rows.features or {}).get(self.image or ""), datasets.Image):
            rows = rows.cast_column(self.image or "", datasets.Image(decode=False))
        # In a worker the plain iterator leaves shards to other workers, on its own.
        return ({column: values[0] for column, values in one.items()} for one in rows.skip(begin).iter(1))


def file_shards(files: Sequence[str], image: str | None) -> FileShards:
    """Files as shards; columns are those of the first that can be read.

    Args:
        files: Paths or addresses.
        image: The image column; None for the first that holds images.

    Raises:
        ArgumentError: For ``train``, where the files are of several kinds, or none of the first can be read.
    """
    suffixes = {_suffix(file) for file in files}
    if len(suffixes) > 1 or not suffixes <= set(READERS):
        raise ArgumentError(
            "train", f"{', '.join(sorted(suffixes))}: give files of one of the kinds .tar, {', '.join(READERS)}"
        )
    lost, failed = Lost(), []
    for file in files[:MOST_TRIED]:
        try:
            features = _features(file)
        except Exception as error:  # readers raise anything
            failed.append(skipped(public_name(file), "", _told(error, file), None))
            lost.count(failed[-1:])
            if lost.too_many:
                break
        else:
            return FileShards(files, features, find_images(Dataset(features.arrow_schema.empty_table()), image))
    first = failed[0]
    raise ArgumentError("train", f"{first.source!r} cannot be read: {first.message.removeprefix(f'{first.source}: ')}")


def _suffix(file: str) -> str:
    return Path(urlsplit(file).path if is_remote(file) else file).suffix.lower()


def _features(file: str) -> Features:
    if _suffix(file) == ".parquet":
        with open_seekable(file) as opened:
            return Features.from_arrow_schema(pq.ParquetFile(opened).schema_arrow)
    rows = _stream(file)
    return (rows if rows.features else rows._resolve_features()).features  # of CSV and JSON by the first rows only


def _stream(file: str) -> IterableDataset:
    suffix = _suffix(file)
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
    return rows


def _of_parquet(file: str, begin: int, features: Features) -> Iterator[Row]:
    """The rows from one on; of what lies before, no more than is in its row group."""
    with open_seekable(file) as opened:
        parquet = pq.ParquetFile(opened)
        missing = [name for name in features if name not in parquet.schema_arrow.names]
        if missing:
            raise Unusable("damaged_shard", f"it has no column {missing[0]!r}: {', '.join(parquet.schema_arrow.names)}")
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if begin >= rows:
                begin -= rows
                continue
            for batch in parquet.iter_batches(ROWS, [group], list(features), use_threads=False):
                table = table_cast(pa.Table.from_batches([batch]), features.arrow_schema).slice(begin)
                begin = max(0, begin - len(batch))
                yield from table.to_pylist()


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
