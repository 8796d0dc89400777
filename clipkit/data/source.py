"""Where captioned images come from: one string to a map-style ``datasets.Dataset``."""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetBuilder, DatasetDict

from clipkit.data.columns import find_images, may_hold_images, plain_texts, stored
from clipkit.data.fault import file_at_fault
from clipkit.data.hub import hub_builder, in_words, refuse_archives
from clipkit.data.local import near_path
from clipkit.data.packed import refuse_unfinished
from clipkit.data.patterns import is_pattern, matching_files
from clipkit.data.sidecars import read_sidecars
from clipkit.types import ArgumentError

__all__ = [
    "METADATA",
    "READERS",
    "cache_of",
    "load_rows",
    "name_and_split",
    "options_of",
    "pick",
    "quiet",
    "refuse_split",
]

EMOJI_SPLITS = ("train", "cells", "style", "concepts")
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
METADATA = tuple(f"metadata.{kind}" for kind in ("csv", "jsonl", "parquet"))
Rows = TypeVar("Rows")
ALSO_CALLED: dict[str, Sequence[str]] = {"validation": ("val", "valid", "dev")}


def load_rows(source: str, split: str = "train", image: str | None = None) -> Dataset:
    """Read a data set, without decoding an image.

    Args:
        source: ``emoji`` or ``emoji/SPLIT`` (the embedded set, ``emoji/all`` for all of it); a parquet, CSV, JSON lines
            or Arrow file, or a pattern of such (``*``, ``{000..127}``, ``{a,b}``); a folder of images with
            ``metadata.csv``, ``.jsonl`` or ``.parquet``, or with a ``.txt`` beside each image; one written by
            ``clipkit data pack`` or ``save_to_disk`` or in the hub's layout; or a hub id. ``:SPLIT`` after any but the
            first names the split, as in ``my/folder:test``.
        split: The split to take where ``source`` names none and has several; a data set's only split is taken whatever
            its name.
        image: The image column; where none is given, the first with images in it. It comes out as ``datasets.Image``;
            paths in it are relative to the file that holds them.

    Returns:
        The rows; those of files and folders are memory-mapped.

    Raises:
        ArgumentError: For ``train``, where nothing is there, it cannot be read, or it has no such split.
    """
    if source == "emoji" or source.startswith("emoji/"):
        return _emoji(source.partition("/")[2] or "train")
    if "://" in source:
        raise ArgumentError("train", f"{source!r} is an address: what lies there is streamed, not read by index")
    name, chosen = name_and_split(source)
    path = Path(name).expanduser()
    with quiet():
        if path.is_file() or path.is_dir() or is_pattern(name):
            return _read(path, chosen, split, image)
        if name.startswith((".", "/", "~")) or path.suffix in READERS or name.count("/") > 1:
            raise ArgumentError("train", f"there is nothing at {name!r}{near_path(path)}")
        return _with_images(_from_hub(name, chosen, split), image, [])


def _emoji(split: str) -> Dataset:
    if split not in (*EMOJI_SPLITS, "all"):
        raise ArgumentError("train", f"the emoji set has no split {split!r}; it has {', '.join(EMOJI_SPLITS)} and all")
    table = _emoji_table()
    if split != "all":
        table = table.filter(pc.field("split") == split)
    return Dataset(datasets.table.InMemoryTable(table), fingerprint=f"clipkit-emoji-{split}")


@functools.cache  # a run opens it for training, validation and each task
def _emoji_table() -> pa.Table:
    with resources.as_file(resources.files("clipkit") / "data/assets/emoji/emoji.parquet") as file:
        return pq.read_table(file)


def name_and_split(source: str) -> tuple[str, str | None]:
    """``my/folder:test`` to ``my/folder`` and ``test``."""
    found = re.fullmatch(r"(.+):([\w.-]+)", source)
    return (found[1], found[2]) if found and not Path(source).expanduser().exists() else (source, None)


def refuse_split(name: str, chosen: str) -> NoReturn:
    """Say that files are of no split.

    Raises:
        ArgumentError: For ``train``.
    """
    raise ArgumentError("train", f"{name!r} names files, none of which is a split {chosen!r}: name those wanted")


def _read(path: Path, chosen: str | None, split: str, image: str | None) -> Dataset:
    files: Sequence[Path] = []
    try:
        if path.is_dir():
            rows = pick(_splits(_read_folder(path)), str(path), chosen, split)
            return _with_images(rows, image, [path, *_data_folders(path)])
        files, missing = ([path], []) if path.is_file() else matching_files(str(path))
        if files and missing:
            raise ArgumentError("train", f"no file matches {missing[0]!r}, a part of {str(path)!r}")
        if files and chosen:
            refuse_split(str(path), chosen)
        if files:
            return _read_files(files, image)
    except ArgumentError:
        raise
    except Exception as error:  # readers raise anything
        told = f"{str(path)!r} cannot be read{_where(files or sorted(path.rglob('*')))}"
        raise ArgumentError("train", f"{told}: {in_words(error.__cause__ or error)}") from error
    raise ArgumentError("train", f"no file matches {str(path)!r}")


def _where(files: Sequence[Path]) -> str:
    """Which of several files is at fault, as a part of a sentence."""
    tables = [file for file in files if file.suffix.lower() in READERS and file.is_file()]
    suffix = tables[0].suffix.lower() if len(tables) > 1 else ""
    alike = [file for file in tables if file.suffix.lower() == suffix]
    found = file_at_fault(READERS[suffix], alike, options_of(suffix)) if suffix else None
    return f", because of {str(found)!r}" if found else ""


def options_of(suffix: str) -> dict[str, str]:
    """What the library is to be told of files with a suffix, beside their names."""
    return {"sep": "\t"} if suffix == ".tsv" else {}


def _read_files(files: Sequence[Path], image: str | None) -> Dataset:
    kind, *others = {READERS.get(file.suffix.lower(), file.suffix) for file in files}
    if others or kind not in READERS.values():
        given = ", ".join(sorted({file.suffix or file.name for file in files}))
        raise ArgumentError("train", f"{given}: give files of one of the kinds {', '.join(READERS)}")
    parts = []
    for (folder, suffix), group in itertools.groupby(files, lambda file: (file.parent, file.suffix.lower())):
        names = [glob.escape(str(file)) for file in group]
        rows = datasets.load_dataset(kind, data_files=names, split="train", **options_of(suffix))
        parts.append(_with_images(rows, image, [folder, Path()]))
    return datasets.concatenate_datasets(parts)


def _read_folder(path: Path) -> Dataset | DatasetDict:
    refuse_unfinished(path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path))
    if any((path / name).is_file() for name in METADATA) and not (path / "README.md").is_file():
        # One metadata file for all: with the files named, an image called test.png does not make a split of its own.
        every = {"train": f"{glob.escape(str(path))}/**"}
        return _built(datasets.load_dataset_builder("imagefolder", data_files=every), str(path))
    if not (path / "README.md").is_file() and (rows := read_sidecars(path)) is not None:
        return rows
    return _built(datasets.load_dataset_builder(str(path), cache_dir=cache_of(path)), str(path))


def _built(builder: DatasetBuilder, name: str) -> Dataset | DatasetDict:
    refuse_archives(builder, name)
    builder.download_and_prepare()
    return builder.as_dataset()


def cache_of(path: Path) -> str | None:
    """A cache of the folder as it is now: with a card, the library tells folders apart by their last name alone."""
    if not (path / "README.md").is_file():
        return None
    digest = hashlib.sha256(str(path.resolve()).encode())
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        told = file.stat()
        digest.update(f"{file.name} {told.st_size} {told.st_mtime_ns}".encode())
    return os.path.join(datasets.config.HF_DATASETS_CACHE, "clipkit", digest.hexdigest()[:32])


def _data_folders(path: Path) -> list[Path]:
    """Folders below that hold files of rows, nearest first."""
    return sorted({Path(folder) for folder, _, files in os.walk(path) if any(Path(f).suffix in READERS for f in files)})


def _from_hub(name: str, chosen: str | None, split: str) -> Dataset:
    builder = hub_builder(name)
    try:
        return pick(_splits(_built(builder, name)), name, chosen, split)
    except ArgumentError:
        raise
    except Exception as error:  # readers raise anything
        raise ArgumentError("train", f"the hub's {name!r} cannot be read ({in_words(error)})") from error


def pick(loaded: Mapping[Any, Rows], name: str, chosen: str | None, split: str) -> Rows:
    """The split that is named, or else the usual one.

    Raises:
        ArgumentError: For ``train``, where there is none of that name.
    """
    wanted: str = chosen or split
    for candidate in (wanted, *ALSO_CALLED.get(wanted, ())):
        if candidate in loaded:
            return loaded[candidate]
    if len(loaded) == 1 and not chosen:
        return next(iter(loaded.values()))
    found, first = ", ".join(loaded), next(iter(loaded))
    raise ArgumentError("train", f"{name!r} has no split {wanted!r}; it has {found}: name one, as in {name}:{first}")


def _splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    return DatasetDict({str(loaded.split or "train"): loaded}) if isinstance(loaded, Dataset) else loaded


def _with_images(rows: Dataset, given: str | None, roots: Sequence[Path]) -> Dataset:
    """The rows with their image column as ``datasets.Image``, its paths absolute."""
    rows = plain_texts(rows)
    column = find_images(rows, given)
    if column is None or (column == given and not may_hold_images(rows.features[column])):
        return rows
    rows = rows.cast_column(column, datasets.Image())
    if not roots:
        return rows
    images = stored(rows, column)
    embedded = pc.struct_field(images, "bytes").null_count < len(rows)
    paths = [] if embedded else pc.struct_field(images, "path").to_pylist()
    first = next((path for path in paths if path), None)
    if first is None or all(path is None or os.path.isabs(path) for path in paths):
        return rows
    root = next((root for root in roots if (root / first).is_file()), roots[0]).resolve()
    found = [None if path is None else {"bytes": None, "path": os.path.join(root, path)} for path in paths]
    return rows.remove_columns(column).add_column(column, found, feature=datasets.Image())


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars where nobody watches, and no log lines about what becomes an error here."""
    bars = not (sys.stderr.isatty() or datasets.are_progress_bars_disabled())
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
