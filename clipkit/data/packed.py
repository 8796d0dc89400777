"""A folder that ``clipkit data pack`` wrote: whether it is whole, and what tells it from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from clipkit.types import ArgumentError

__all__ = ["MADE_BY", "MANIFEST", "PLAN", "STATE", "packed_fingerprint", "refuse_unfinished"]

MADE_BY = "clipkit data pack"
MANIFEST = "manifest.json"
PLAN = "work/plan.json"
STATE = "state.json"
"""Written last, so a folder that has it is whole."""


def refuse_unfinished(folder: Path) -> None:
    """Check that a folder is not one whose packing was stopped.

    Raises:
        ArgumentError: For ``train``, saying how to go on.
    """
    if (folder / PLAN).is_file() and not (folder / STATE).is_file():
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        message = f"{str(folder)!r} is packed in part only; `clipkit data pack {plan['source']} {folder}`, with the "
        raise ArgumentError("train", f"{message}options it was begun with, goes on where it stopped")


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
