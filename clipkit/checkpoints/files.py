"""Checkpoint files: written beside, flushed, read back, then renamed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from clipkit.checkpoints.manifest import Digests, entry_of, is_damaged, partial_of, publish, release, remove

__all__ = ["DurableCheckpointIO"]

log = logging.getLogger("clipkit")


class DurableCheckpointIO(CheckpointIO):
    """Writes and reads Lightning's checkpoints so that neither a kill nor a full disk costs the last good one.

    A file is written under a hidden name in its own folder, flushed to the disk, read back and compared, entered into
    the folder's ``manifest.json`` (sha256, bytes, step, whether all weights are finite) and only then renamed; what it
    replaces stays as ``NAME.previous.ckpt``. Lightning's own way writes elsewhere and moves, without a flush
    (lightning 19970). What Lightning wants removed, as there is a better one, stays until two newer ones are in its
    folder, so that a damaged newest has one before it. Where the disk refuses, a warning says so, the run goes on, and
    nothing is removed until a later save succeeds.

    Args:
        experiment: What the checkpoints are of, so that ``complete_checkpoints`` can be asked for those alone.

    Attributes:
        resumed: What the run went on from, which a strategy with a way of its own to load says here.
    """

    def __init__(self, experiment: str = "") -> None:
        self.experiment = experiment
        self.failed = False
        self._digests = Digests()
        self._owed: set[Path] = set()
        self.resumed: Path | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint, or warn and leave what there was."""
        final = Path(path)
        partial = partial_of(final)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            remove(partial)  # of a run that was killed
            digest = _written(checkpoint, partial)
            if self._digests.of(partial) != digest:
                raise OSError("what was read back is not what was written")
            publish(partial, final, entry_of(checkpoint, digest, partial, _finite(checkpoint), self.experiment))
            self.failed = False
            self._owed.discard(final)
        except OSError as error:
            self.failed = True
            remove(partial)
            log.warning("%s was not saved (%s); the run goes on, and what was saved before stays", final, error)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            OSError: Where it is not there, is not what was written, or is a folder of shards.
        """
        if Path(path).is_dir():
            name = os.fspath(path)
            hint = f"make it one by `clipkit consolidate {name} FILE`, or go on under clipkit.strategies.FSDP2"
            raise OSError(f"{name!r} is a folder of shards, and this strategy reads one file: {hint}")
        if is_damaged(Path(path)):
            raise OSError(f"{os.fspath(path)!r} is damaged: it is not what was written; give the one before")
        self.resumed = Path(path)
        found: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=weights_only)
        return found

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove one that is no longer among the best; if what was to replace it failed, once a later save succeeds.

        The two newest of a folder stay until newer ones take their places. One with a hidden name, as Lightning's tuner
        saves while it tries, goes at once.
        """
        self._owed.add(Path(path))
        if self.failed:
            return
        try:
            if Path(path).name.startswith("."):
                remove(Path(path))
            for owed in sorted(self._owed):
                release(owed, self._digests, self.resumed)
                self._owed.discard(owed)
        except OSError as error:  # a full disk holds no new manifest
            log.warning("%s was not removed (%s)", path, error)


def _finite(checkpoint: Mapping[str, Any]) -> bool:
    weights = checkpoint.get("state_dict", {}).values()
    tensors = [value for value in weights if isinstance(value, Tensor) and value.is_floating_point()]
    return all(bool(value.isfinite().all()) for value in tensors)


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
