"""What a source is as a stream: tar shards, files elsewhere, or a data set that is not to be copied here."""

from __future__ import annotations

from pathlib import Path

import datasets
from datasets import Dataset, IterableDataset

from clipkit.data.columns import find_images
from clipkit.data.head import as_dataset
from clipkit.data.hub import hub_builder, is_hub_id, tables_by_split, tars_by_split
from clipkit.data.remote import is_remote, public_name
from clipkit.data.sharded import IndexedShards, TableShards
from clipkit.data.source import READERS, load_rows, name_and_split, pick, quiet, refuse_split
from clipkit.data.tables import FileShards, are_alike, file_shards
from clipkit.data.tar_shards import IMAGE_MEMBERS, TarShards
from clipkit.data.tars import find_tars, matching, refuse_packed
from clipkit.types import ArgumentError

__all__ = ["find_shards", "load_stream", "open_rows", "rows_as_shards"]

# By default a server that is gone is asked for another 105 seconds, and one that stalls for more than an hour.
datasets.config.STREAMING_READ_MAX_RETRIES = 4
PARTS = 64
"""Shards that the rows of one data set are cut into."""


def find_shards(
    source: str, split: str = "train", image: str | None = None, streaming: bool = False
) -> TarShards | FileShards | IndexedShards | TableShards | None:
    """The shards of a source that can only be streamed, or is to be.

    Args:
        source: A tar archive, a pattern of such, a folder or a hub data set of them; archives or files that
            ``load_rows`` reads with an address (``https://``, ``s3://``, ``gs://``, ``hf://``); or whatever
            ``load_rows`` reads.
        split: As for ``load_rows``.
        image: The image column; of a tar the suffixes of the members to take, as ``jpg;png``.
        streaming: Whether to stream what could be read by index.

    Returns:
        The shards; None for what is to be read by index.

    Raises:
        ArgumentError: For ``train``, where nothing is there or it cannot be read.
    """
    name, chosen = name_and_split(source)
    tars = find_tars(name, chosen, split)
    if not tars and is_hub_id(name):
        tars = _tars_of_hub(name, chosen, split, streaming)
    if tars:
        members = tuple(part.strip().lower() for part in image.split(";")) if image else IMAGE_MEMBERS
        return TarShards(tars, members, image or "image")
    if not (streaming or is_remote(name)):
        return None
    try:
        with quiet():
            return _tables(name, chosen, split, image)
    except ArgumentError:
        raise
    except Exception as error:  # readers raise anything
        told = " ".join(str(error).replace(name, public_name(name)).split())[:300]
        raise ArgumentError("train", f"{public_name(name)!r} cannot be streamed: {told}") from error


def load_stream(source: str, split: str = "train", image: str | None = None) -> IterableDataset:
    """The rows of a source as the ``datasets`` library streams them, images not decoded.

    Training reads shards by itself, to resume and to count what cannot be used; this is for looking at the data.

    Args:
        source: See ``find_shards``.
        split: Likewise.
        image: Likewise.

    Raises:
        ArgumentError: For ``train``.
    """
    found = find_shards(source, split, image, streaming=True)
    assert found is not None  # nothing else is found where streaming is asked for
    return as_dataset(found)


def open_rows(source: str, split: str = "train", image: str | None = None) -> Dataset | IterableDataset:
    """The rows of a source: read by index where they can be, else streamed.

    Args:
        source: See ``load_rows`` and ``find_shards``.
        split: Likewise.
        image: Likewise.

    Raises:
        ArgumentError: For ``train``.
    """
    found = find_shards(source, split, image)
    return load_rows(source, split, image) if found is None else as_dataset(found)


def rows_as_shards(rows: Dataset, name: str, image: str | None) -> IndexedShards:
    """Rows that can be read by index, as a stream: to be mixed with others."""
    column = find_images(rows, image)
    if column is not None:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    parts = min(PARTS, len(rows))
    return IndexedShards(rows, [f"{name} ({i + 1}/{parts})" for i in range(parts)], column)


def _tars_of_hub(name: str, chosen: str | None, split: str, streaming: bool) -> list[str]:
    """The archives of a hub data set that is made of such; none of any other."""
    try:
        with quiet():
            splits = tars_by_split(hub_builder(name))
    except ArgumentError:
        if streaming:
            raise
        return []  # it may be a name of a kind that only the caller knows, who says else what is wrong
    found = pick(splits, name, chosen, split) if splits else []
    refuse_packed(found)
    return found


def _tables(name: str, chosen: str | None, split: str, image: str | None) -> FileShards | IndexedShards | TableShards:
    path = Path(name).expanduser()
    if is_remote(name) or (path.suffix in READERS and not path.is_dir()):
        if chosen:
            refuse_split(public_name(name), chosen)
        return file_shards(matching(name), image)
    plain = path.is_dir() and not (path / "state.json").exists() and not (path / "dataset_dict.json").exists()
    if (path.exists() and not plain) or name.partition("/")[0] == "emoji":
        return rows_as_shards(load_rows(f"{name}:{chosen}" if chosen else name, split, image), name, image)
    builder = datasets.load_dataset_builder(str(path)) if path.is_dir() else hub_builder(name)
    files = pick(tables, name, chosen, split) if (tables := tables_by_split(builder)) else []
    if are_alike(files):
        return file_shards(files, image)
    rows = pick(builder.as_streaming_dataset(), name, chosen, split)
    # Of CSV and JSON the kinds are those of the first rows, which those that follow need not be of.
    known = rows if rows.features else rows._resolve_features()
    column = find_images(known, image)
    if column is not None and isinstance((known.features or {})[column], datasets.Image):
        rows = known.cast_column(column, datasets.Image(decode=False))
    return TableShards(rows, [f"{name} ({i + 1}/{rows.num_shards})" for i in range(rows.num_shards)], column)
