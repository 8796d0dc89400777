"""Which tar archives a name stands for: files, patterns, addresses, a folder and what lies below it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import datasets

from clipkit.data.hub import in_words, tars_by_split
from clipkit.data.patterns import matching_files
from clipkit.data.remote import expand, is_remote
from clipkit.data.sidecars import SUFFIXES
from clipkit.data.source import METADATA, READERS, cache_of, pick, refuse_split
from clipkit.types import ArgumentError

__all__ = ["find_tars", "matching", "refuse_packed"]

DESCRIBED = (*METADATA, "state.json", "dataset_dict.json")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def find_tars(name: str, chosen: str | None, split: str) -> list[str]:
    """The tar archives that a name stands for, in order; none where it stands for something else.

    Args:
        name: A file, a pattern, an address, or a folder. Of a folder all archives at any depth, where no images or
            metadata lie there; the names of files and folders (``val/``, ``shard-val-03.tar``) may part them in splits.
        chosen: The split asked for with the name.
        split: The split to take otherwise, where there are several.

    Raises:
        ArgumentError: For ``train``, where archives are compressed, a file is missing, or there is no such split.
    """
    folder = Path(name).expanduser()
    if not is_remote(name) and folder.is_dir():
        found = _below(folder)
        tars = pick(_splits(folder, found), name, chosen, split) if found else []
    elif re.search(r"\.(tar|tgz)\b", name):
        tars = matching(name)
        kinds = {urlsplit(file).path.lower() if is_remote(file) else file.lower() for file in tars}
        if not all(kind.endswith((".tar", *PACKED)) for kind in kinds):
            raise ArgumentError("train", f"{name!r} stands for tar archives and other files; give one kind")
        if chosen:
            refuse_split(name, chosen)
    else:
        return []
    refuse_packed(tars)
    return tars


def refuse_packed(files: Sequence[str]) -> None:
    """Refuse compressed archives.

    Raises:
        ArgumentError: For ``train``, naming the first.
    """
    packed = next((file for file in files if urlsplit(file).path.lower().endswith(PACKED)), None)
    if packed is not None:
        raise ArgumentError(
            "train", f"{packed!r} is compressed, so reading cannot begin in the middle of it: unpack it to .tar"
        )


def matching(name: str) -> list[str]:
    """The files that a path, a pattern or an address stands for.

    Raises:
        ArgumentError: For ``train``, where a part matches none.
    """
    if is_remote(name):
        return expand(name)
    files, missing = matching_files(str(Path(name).expanduser()))
    if missing:
        raise ArgumentError("train", f"no file matches {missing[0]!r}" + (f", a part of {name!r}" if files else ""))
    return [str(file) for file in files]


def _below(folder: Path) -> list[Path]:
    """The archives in a folder and below it, which may have all sorts beside them, but are no part of another set."""
    found: list[Path] = []
    tables: Counter[str] = Counter()
    for base, folders, files in os.walk(folder):
        kinds = [Path(file).suffix.lower() for file in files]
        if any(kind in SUFFIXES for kind in kinds) or any(file in DESCRIBED for file in files):
            return []
        names = [*files, *(one for one in folders if one.lower().endswith(".tar"))]  # which cannot be read, and is told
        found += [Path(base, name) for name in names if name.lower().endswith(".tar")]
        if Path(base) != folder or not found:  # beside archives at the top there may be any number
            tables.update(kind for kind in kinds if kind in READERS)
    return sorted(found) if len(found) >= max(tables.values(), default=0) else []


def _splits(folder: Path, tars: Sequence[Path]) -> dict[str, list[str]]:
    """Split to its archives: as the card says, where the folder has one, else by their names."""
    if (folder / "README.md").is_file():
        try:
            told = tars_by_split(datasets.load_dataset_builder(str(folder), cache_dir=cache_of(folder)))
        except Exception as error:  # readers raise anything
            raise ArgumentError("train", f"{str(folder)!r} cannot be read: {in_words(error)}") from error
        if told:
            return told
    found: dict[str, list[str]] = {}
    for tar in tars:
        found.setdefault(_split_of(tar.relative_to(folder)), []).append(str(tar))
    return found


def _split_of(path: Path) -> str:
    """The first split that a part of a path is called after; ``train`` where none is."""
    words = re.split(r"[^a-z]+", str(path).lower())
    return next((split for word in words for split, names in SPLITS.items() if word in names), "train")
