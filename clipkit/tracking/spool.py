"""A run's records on disk, written before anything else is tried: an append-only file and how far it has been sent.

A spool is a folder: ``records.jsonl`` (one record a line, kept), ``offset`` (bytes of it that the server has),
``run.json`` (which run this is), ``files/`` (artifacts that wait) and ``lock`` (held by the process that writes or
sends).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from clipkit.tracking.records import Record
from clipkit.tracking.redact import redact

__all__ = ["RunCard", "Spool", "find_spools", "now_ms", "replace_text"]

_COPY_LIMIT = 8_000_000
# fmt: off
_TEXT_SUFFIXES = frozenset({
    ".cfg", ".csv", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".out", ".sh", ".toml", ".tsv", ".txt", ".xml",
    ".yaml", ".yml",
})
# fmt: on


@dataclass
class RunCard:
    """Which run a spool belongs to; what ``run.json`` holds.

    Attributes:
        uri: Tracking URI without credentials.
        experiment: MLflow's experiment.
        name: The run's name.
        version: The local id: the name of the run's folder.
        started: Start in ms since 1970.
        run_id: MLflow's id, or None before the server has been reached.
        experiment_id: MLflow's id, likewise.
        resumed: How often the run was continued.
        ended: The status that it ended with, or None while it runs.
    """

    uri: str
    experiment: str
    name: str
    version: str
    started: int
    run_id: str | None = None
    experiment_id: str | None = None
    resumed: int = 0
    ended: str | None = None


class Spool:
    """The records of one run.

    Args:
        folder: Made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write = threading.Lock()
        self._records: IO[bytes] | None = None
        self._lock_file: IO[bytes] | None = None

    def claim(self) -> bool:
        """Take the spool for this process; false where another process has it; on Windows always true."""
        if self._lock_file is not None:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.folder / "lock", "ab")  # noqa: SIM115 (stays open: closing it gives the lock back)
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
        self._lock_file = file
        return True

    def release(self) -> None:
        """Write everything through to the disk and let other processes have the spool."""
        with self._write:
            if self._records is not None:
                with contextlib.suppress(OSError):
                    os.fsync(self._records.fileno())
                self._records.close()
                self._records = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def append(self, record: Record) -> None:
        """Add a record; it survives the end of this process once this returns.

        Raises:
            OSError: Where the disk does not take it.
        """
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        with self._write:
            if self._records is None:
                self._records = self._open()
            self._records.write(line)
            self._records.flush()

    def _open(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "records.jsonl"
        torn = path.exists() and path.stat().st_size > 0 and _last_byte(path) != b"\n"
        file = open(path, "ab")  # noqa: SIM115 (kept open for the run)
        if torn:  # a process died while writing: end its line, which is then skipped when read
            file.write(b"\n")
        return file

    def read(self, most: int = 500) -> list[tuple[int, Record | None]]:
        """The next unsent records, whole lines only.

        Args:
            most: How many at most.

        Returns:
            Pairs of the offset after a record and the record, which is None for a line that is none.
        """
        path, offset = self.folder / "records.jsonl", self.offset
        found: list[tuple[int, Record | None]] = []
        if not path.exists():
            return []
        with open(path, "rb") as file:
            file.seek(offset)
            while len(found) < most and (line := file.readline()).endswith(b"\n"):
                offset += len(line)
                found.append((offset, _parse(line)))
        return found

    @property
    def offset(self) -> int:
        """Bytes of ``records.jsonl`` that need not be sent again."""
        try:
            return int((self.folder / "offset").read_text())
        except (OSError, ValueError):
            return 0

    def advance(self, offset: int) -> None:
        """Note that the records up to ``offset`` have arrived; never goes back."""
        if offset > self.offset:  # a sender that was given up on may come to its end after another
            replace_text(self.folder / "offset", str(offset))

    def left(self) -> int:
        """Number of records that wait."""
        return sum(record is not None for _, record in self.read(sys.maxsize))

    def keep(self, path: Path, known: frozenset[str]) -> str:
        """Hold a file or folder until it is sent, whatever becomes of the original.

        Text files are held without credentials; large files as a second name of the same data.

        Args:
            path: What to hold.
            known: Credentials to replace literally in text.

        Returns:
            Its path inside the spool.
        """
        place = self.folder / "files" / f"{time.time_ns():x}"
        place.mkdir(parents=True)
        target = place / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=lambda source, to: _hold(Path(source), Path(to), known))
        else:
            _hold(path, target, known)
        return target.relative_to(self.folder).as_posix()

    def drop(self, file: str) -> None:
        """Delete a held file after it has been sent."""
        shutil.rmtree((self.folder / file).parent, ignore_errors=True)

    def reject(self, record: Record, reason: str) -> None:
        """Put aside what the server refuses for good, so that the rest can go on; a file goes to ``rejected/``."""
        held = self.folder / record.get("file", "")
        if record["kind"] == "artifact" and held.exists():
            (self.folder / "rejected").mkdir(exist_ok=True)
            os.replace(held.parent, self.folder / "rejected" / held.parent.name)
        with open(self.folder / "rejected.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "reason": reason}, ensure_ascii=False, default=str) + "\n")

    def card(self) -> RunCard | None:
        """Whose records these are; None before the first is written, or where the file cannot be read."""
        try:
            stored: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            return RunCard(**{field.name: stored[field.name] for field in fields(RunCard)})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save_card(self, card: RunCard) -> None:
        """Write ``run.json``, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / "run.json", json.dumps(asdict(card), indent=1))


def find_spools(root: Path) -> Iterator[Path]:
    """Every spool folder at or below ``root``, oldest run folder first by name."""
    for card in sorted(root.rglob("run.json")) if root.is_dir() else []:
        if card.parent.name == "spool":
            yield card.parent


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def replace_text(path: Path, text: str) -> None:
    """Write a small file so that a reader, or a crash, finds the old text or the new one."""
    # the name carries process and thread: a run and a later replay must not write through each other
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _hold(source: Path, target: Path, known: frozenset[str]) -> None:
    if source.suffix.lower() in _TEXT_SUFFIXES:
        target.write_text(redact(source.read_text(encoding="utf-8", errors="replace"), known), encoding="utf-8")
        return
    if source.stat().st_size > _COPY_LIMIT:
        try:
            os.link(source, target)
        except OSError:  # another file system: fall through to the copy
            pass
        else:
            return
    shutil.copyfile(source, target)
