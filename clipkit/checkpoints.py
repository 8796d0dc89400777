"""Checkpoint files that are whole or not there: written beside, flushed, read back, then renamed, with a manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

__all__ = ["Checkpoint", "DurableCheckpointIO", "complete_checkpoints", "is_damaged"]

log = logging.getLogger("clipkit")

MANIFEST = "manifest.json"
Entries = dict[str, dict[str, Any]]
"""What is known of one name: its ``current`` content, the ``previous`` one, and the ``next`` while it is written."""


class Checkpoint(NamedTuple):
    """A complete checkpoint.

    Attributes:
        path: The file.
        step: Optimiser steps taken.
        time: Seconds since 1970 when it was written.
        finite: Whether every weight is finite.
    """

    path: Path
    step: int
    time: float
    finite: bool


class DurableCheckpointIO(CheckpointIO):
    """Writes and reads Lightning's checkpoints so that neither a kill nor a full disk costs the last good one.

    A file is written under a hidden name in its own folder, flushed to the disk, read back and compared, entered into
    the folder's ``manifest.json`` (sha256, bytes, step, whether all weights are finite) and only then renamed; what it
    replaces stays as ``NAME.previous.ckpt``. Lightning's own way writes elsewhere and moves, without a flush
    (lightning 19970). Where the disk refuses, a warning says so, the run goes on, and nothing is removed until a later
    save succeeds.

    Args:
        experiment: What the checkpoints are of, so that ``complete_checkpoints`` can be asked for those alone.
    """

    def __init__(self, experiment: str = "") -> None:
        self.experiment = experiment
        self._failed = False

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint, or warn and leave what there was."""
        final = Path(path)
        partial = final.with_name(f".{final.name}.partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            entry = _entry(checkpoint, _written(checkpoint, partial), partial)
            _announce(final, {**entry, "experiment": self.experiment})
            _set_aside(final)
            partial.replace(final)
            _flush_folder(final.parent)
            _settle(final, entry["sha256"])
            self._failed = False
        except OSError as error:
            self._failed = True
            partial.unlink(missing_ok=True)
            log.warning("%s was not saved (%s); the run goes on, and what was saved before stays", final, error)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            OSError: Where it is not there, or is not what was written.
        """
        if is_damaged(Path(path)):
            raise OSError(f"{os.fspath(path)!r} is damaged: it is not what was written; give the one before")
        found: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=weights_only)
        return found

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove one that is no longer among the best, unless the save that was to replace it failed."""
        file = Path(path)
        if self._failed:
            return
        for gone in (file, _previous(file)):
            gone.unlink(missing_ok=True)
        manifest = _read_manifest(file.parent)
        if manifest.pop(file.name, None) is not None:
            _write_manifest(file.parent, manifest)


def complete_checkpoints(folder: Path, experiment: str | None = None) -> Iterator[Checkpoint]:
    """The complete checkpoints of a folder and those below it, the newest first; each damaged one is warned of.

    Files are read whole, one at a time and only as far as the caller asks.

    Args:
        folder: Where to look; it need not be there.
        experiment: Only those of this one.
    """
    digests: dict[Path, str] = {}
    for entry, file in sorted(_recorded(folder, experiment), key=lambda found: found[0]["time"], reverse=True):
        if file not in digests:
            digests[file] = _digest(file)
            if is_damaged(file, digests[file]):
                log.warning("%s is damaged and passed over", file)
        if digests[file] == entry["sha256"]:
            yield Checkpoint(file, entry["step"], entry["time"], entry["finite"])


def _recorded(folder: Path, experiment: str | None) -> Iterator[tuple[dict[str, Any], Path]]:
    """Every entry of every manifest with each file that it may be of."""
    for manifest in folder.rglob(MANIFEST):
        for name, entries in _read_manifest(manifest.parent).items():
            path = manifest.parent / name
            files = [file for file in (path, _previous(path)) if file.is_file()]
            wanted = [entry for entry in entries.values() if experiment in (None, entry["experiment"])]
            yield from ((entry, file) for entry in wanted for file in files)


def is_damaged(path: Path, digest: str | None = None) -> bool:
    """Whether the manifest beside a file says that it was written otherwise; False where it says nothing of it."""
    manifest = _read_manifest(path.parent)
    known = {entry["sha256"] for name in (path.name, _current_name(path)) for entry in manifest.get(name, {}).values()}
    return bool(known) and (digest or _digest(path)) not in known


def _entry(checkpoint: Mapping[str, Any], digest: str, file: Path) -> dict[str, Any]:
    if _digest(file) != digest:
        raise OSError("what was read back is not what was written")
    weights = checkpoint.get("state_dict", {}).values()
    tensors = [value for value in weights if isinstance(value, Tensor) and value.is_floating_point()]
    return {
        "sha256": digest,
        "bytes": file.stat().st_size,
        "step": int(checkpoint.get("global_step", 0)),
        "epoch": int(checkpoint.get("epoch", 0)),
        "finite": all(bool(value.isfinite().all()) for value in tensors),
        "time": time.time(),
    }


class _Hashing:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _written(checkpoint: Mapping[str, Any], path: Path) -> str:
    """Write a file through to the disk; what was meant to be in it, hashed."""
    with path.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(checkpoint, hashing)  # type: ignore[arg-type]  # it writes and flushes, no more is asked of it
        except RuntimeError as error:  # where the disk refuses, torch's writer stumbles over that on its way out
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.flush()
        os.fsync(file.fileno())
    return hashing.hash.hexdigest()


def _announce(final: Path, entry: dict[str, Any]) -> None:
    """Enter a content before it gets its name, so that a kill between the two leaves no file without an entry."""
    _settle(final)
    manifest = _read_manifest(final.parent)
    manifest.setdefault(final.name, {})["next"] = entry
    _write_manifest(final.parent, manifest)


def _settle(final: Path, digest: str | None = None) -> None:
    """Make an announced content the current one, or forget it where a kill came before the renaming."""
    manifest = _read_manifest(final.parent)
    entries = manifest.get(final.name, {})
    announced = entries.pop("next", None)
    if announced is None:
        return
    if final.is_file() and (digest or _digest(final)) == announced["sha256"]:
        if "current" in entries:
            entries["previous"] = entries["current"]
        entries["current"] = announced
    _write_manifest(final.parent, manifest)


def _set_aside(final: Path) -> None:
    if final.is_file():
        link = final.with_name(f".{final.name}.link")
        link.unlink(missing_ok=True)
        os.link(final, link)
        link.replace(_previous(final))


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _current_name(path: Path) -> str:
    return f"{path.stem.removesuffix('.previous')}{path.suffix}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Entries]:
    try:
        read: dict[str, Entries] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return read


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    partial = folder / f".{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
