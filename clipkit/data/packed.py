"""A folder of memory-mapped shards that ``clipkit data`` wrote: whether it is whole, and what tells it from another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo, Features

from clipkit.types import ArgumentError

__all__ = [
    "MADE_BY",
    "MANIFEST",
    "PLAN",
    "STATE",
    "close_folder",
    "packed_fingerprint",
    "refuse_unfinished",
    "write_json",
]

MADE_BY = "clipkit data pack"
MANIFEST = "manifest.json"
PLAN = "work/plan.json"
STATE = "state.json"
"""Written last, so a folder that has it is whole."""


def refuse_unfinished(folder: Path) -> None:
    """Check that a folder is not one whose writing was stopped.

    Raises:
        ArgumentError: For ``train``, saying how to go on.
    """
    if (folder / PLAN).is_file() and not (folder / STATE).is_file():
        command = json.loads((folder / PLAN).read_text(encoding="utf-8"))["command"]
        message = f"{str(folder)!r} is written in part only; `{command}`, with the options it was begun with,"
        raise ArgumentError("train", f"{message} goes on where it stopped")


def write_json(path: Path, value: Any) -> None:
    """Under another name first, so that a file of this name is whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=None if isinstance(value, tuple) else 2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def close_folder(folder: Path, files: Sequence[str], features: Features, fingerprint: str) -> None:
    """Write what ``datasets.load_from_disk`` reads beside Arrow streams, and take away what only resuming needs."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    DatasetInfo(features=features).write_to_directory(str(folder))
    write_json(folder / STATE, state)
    shutil.rmtree(folder / "work")


def packed_fingerprint(rows: Dataset) -> str | None:
    """The fingerprint of a packed folder, where these are all of its rows and columns as they lie there, else None."""
    files = [Path(file["filename"]) for file in getattr(rows, "cache_files", [])]
    if not files or rows._indices is not None or len({file.parent for file in files}) != 1:
        return None
    manifest = files[0].parent / MANIFEST
    if not manifest.is_file():
        return None
    told: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    if told.get("made_by") != MADE_BY:
        return None
    whole = [shard["file"] for shard in told["shards"]] == [file.name for file in files]
    same = whole and told["written"] == len(rows) and sorted(told["columns"]) == sorted(rows.column_names)
    return str(told["fingerprint"]) if same else None
