"""The manifest of a folder of checkpoints: what each is, and that it gets its name only once it is whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Checkpoint",
    "Digests",
    "complete_checkpoints",
    "digest_of",
    "entry_of",
    "is_damaged",
    "partial_of",
    "previous_of",
    "publish",
    "release",
    "remove",
]

log = logging.getLogger("clipkit")

MANIFEST = "manifest.json"
KEPT = 2
"""So many of a folder that a run can go on from stay: where the newest is damaged, there is one before it."""
UNREADABLE = (
    "{manifest} is damaged and put aside as {aside}: which of the checkpoints beside it are whole is not known now, "
    "so `--resume auto` passes over them; name one to --resume"
)
Entries = dict[str, dict[str, Any]]
"""What is known of one name: its ``current`` content, the ``previous`` one, and the ``next`` while it is written."""


class Checkpoint(NamedTuple):
    """A complete checkpoint.

    Attributes:
        path: The file, or the folder of shards.
        step: Optimiser steps taken.
        time: Seconds since 1970 when it was written.
        finite: Whether every weight is finite.
    """

    path: Path
    step: int
    time: float
    finite: bool


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
            digests[file] = digest_of(file)
            if is_damaged(file, digests[file]):
                log.warning("%s is damaged and passed over", file)
        if digests[file] == entry["sha256"]:
            yield Checkpoint(file, entry["step"], entry["time"], entry["finite"])


def is_damaged(path: Path, digest: str | None = None) -> bool:
    """Whether the manifest beside a checkpoint says that it was written otherwise; False where it says nothing."""
    manifest = _read(path.parent)
    known = {entry["sha256"] for name in (path.name, _current_name(path)) for entry in manifest.get(name, {}).values()}
    return bool(known) and (digest or digest_of(path)) not in known


def entry_of(checkpoint: Mapping[str, Any], digest: str, path: Path, finite: bool, experiment: str) -> dict[str, Any]:
    """What the manifest holds of a checkpoint."""
    return {
        "sha256": digest,
        "bytes": sum(file.stat().st_size for file in _files(path)),
        "step": int(checkpoint.get("global_step", 0)),
        "epoch": int(checkpoint.get("epoch", 0)),
        "finite": finite,
        "time": time.time(),
        "experiment": experiment,
    }


def publish(partial: Path, final: Path, entry: dict[str, Any]) -> None:
    """Give a flushed file or folder its name; what had it before stays as ``previous_of`` it."""
    _announce(final, entry)
    _set_aside(final, keep_name=not (final.is_dir() or partial.is_dir()))
    partial.replace(final)
    _flush_folder(final.parent)
    _settle(final, entry["sha256"])


def release(path: Path, digests: Digests, resumed: Path | None = None) -> None:
    """Let a checkpoint go: it is removed once two newer ones that a run can go on from are in its folder.

    Args:
        path: What is not wanted for its own sake any more.
        digests: Sums of files that were read before.
        resumed: What the run went on from. It is wanted again: where a better one that took its place is damaged, this
            run knows it as the best.
    """
    manifest = _read(path.parent)
    if path.name not in manifest:  # nothing is known of it
        remove(path)
        return
    for entry in manifest.get(path.name, {}).values():
        entry["released"] = True
    if resumed is not None and resumed.parent.resolve() == path.parent.resolve():
        for entry in manifest.get(_current_name(resumed), {}).values():
            entry["released"] = False
    _write(path.parent, manifest)  # before a file goes, so that a kill leaves none that nothing is known of
    kept = 0
    for _, file, entries in sorted(_held(path.parent, manifest, path.name), reverse=True, key=lambda held: held[0]):
        if kept < KEPT and any(entry["finite"] and entry["sha256"] == digests.of(file) for entry in entries):
            kept += 1
        elif all(entry.get("released") for entry in entries):
            remove(file)
    left = {name: entries for name, entries in manifest.items() if _existing(path.parent / name)}
    _write(path.parent, left)


def remove(path: Path) -> None:
    """Remove a file, or a folder at once: one that is half removed would be called damaged."""
    if path.is_dir():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.replace(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def previous_of(path: Path) -> Path:
    """Where the one before stays."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def digest_of(path: Path) -> str:
    """Sha256 of a file; of a folder, that of its files' names and sums."""
    if path.is_dir():
        lines = [f"{file.relative_to(path)} {digest_of(file)}\n" for file in _files(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """Sums of files and folders, each read once as long as it is not touched; under whichever name."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """As ``digest_of``."""
        about = path.stat()
        key = (about.st_ino, about.st_size, about.st_mtime_ns)
        if key not in self._known:
            self._known[key] = digest_of(path)
        return self._known[key]


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _recorded(folder: Path, experiment: str | None) -> Iterator[tuple[dict[str, Any], Path]]:
    """Every entry of every manifest with each file that it may be of."""
    for manifest in folder.rglob(MANIFEST):
        for name, entries in _read(manifest.parent).items():
            files = _existing(manifest.parent / name)
            wanted = [entry for entry in entries.values() if experiment in (None, entry["experiment"])]
            yield from ((entry, file) for entry in wanted for file in files)


def _existing(path: Path) -> list[Path]:
    return [file for file in (path, previous_of(path)) if file.exists()]


def _held(folder: Path, manifest: Mapping[str, Entries], name: str) -> Iterator[tuple[float, Path, list[Any]]]:
    """Time, file, and entries of its name, for every file of the experiment that one name is of."""
    experiments = {entry["experiment"] for entry in manifest[name].values()}
    for other, entries in manifest.items():
        newest = max(entry["time"] for entry in entries.values())
        if any(entry["experiment"] in experiments for entry in entries.values()):
            for file in _existing(folder / other):
                part = "current" if file.name == other else "previous"
                yield entries.get(part, {"time": newest})["time"], file, list(entries.values())


def _announce(final: Path, entry: dict[str, Any]) -> None:
    """Enter a content before it gets its name, so that a kill between the two leaves no file without an entry."""
    _settle(final)
    manifest = _read(final.parent)
    manifest.setdefault(final.name, {})["next"] = entry
    _write(final.parent, manifest)


def _settle(final: Path, digest: str | None = None) -> None:
    """Make an announced content the current one, or forget it where a kill came before the renaming."""
    manifest = _read(final.parent)
    entries = manifest.get(final.name, {})
    announced = entries.pop("next", None)
    if announced is None:
        return
    if final.exists() and (digest or digest_of(final)) == announced["sha256"]:
        if "current" in entries:
            entries["previous"] = entries["current"]
        entries["current"] = announced
    _write(final.parent, manifest)


def _set_aside(final: Path, keep_name: bool) -> None:
    """Keep what is there under the name of the one before; under its own too where that can be replaced at once."""
    if not final.exists():
        return
    if not keep_name:  # no folder takes the place of another, or of a file
        remove(previous_of(final))
        final.replace(previous_of(final))
        return
    link = final.with_name(f".{final.name}.link")
    link.unlink(missing_ok=True)
    os.link(final, link)
    if previous_of(final).is_dir():
        remove(previous_of(final))
    link.replace(previous_of(final))


def _current_name(path: Path) -> str:
    return f"{path.stem.removesuffix('.previous')}{path.suffix}"


def _read(folder: Path) -> dict[str, Entries]:
    """What is recorded; nothing of another program's file of that name. A damaged one is put aside, and told."""
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # no JSON, or no UTF-8
        if any(folder.glob("*.ckpt")):
            aside = folder / f"{MANIFEST}.damaged"
            (folder / MANIFEST).replace(aside)
            log.warning("%s", UNREADABLE.format(manifest=folder / MANIFEST, aside=aside.name))
        return {}
    entries = read.items() if isinstance(read, dict) else ()
    return {name: entry for name, entry in entries if _is_ours(entry)}


def _is_ours(entries: Any) -> bool:
    parts = list(entries.values()) if isinstance(entries, dict) else [None]
    return all(isinstance(part, dict) and "sha256" in part for part in parts)


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
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
