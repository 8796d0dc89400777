"""One run being recorded: its spool, the thread that sends it, the thread that samples the machine."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from clipkit.tracking.records import Record, renamed
from clipkit.tracking.ship import Shipper
from clipkit.tracking.spool import RunCard, Spool, now_ms, replace_text
from clipkit.tracking.system import Sampler

__all__ = ["Journal"]

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # s without progress before the end of a run no longer waits for the server
_SECOND_PATIENCE = 1.0  # s, where that has happened before


class Journal:
    """Writes records; never raises for want of a server or of disk space.

    Args:
        folder: The spool's folder.
        card: The run; what the folder already says of it takes precedence.
        uri: Tracking URI, with its credentials.
        system_metrics: Whether to sample the machine.
    """

    def __init__(self, folder: Path, card: RunCard, uri: str, system_metrics: bool) -> None:
        self.spool = Spool(folder)
        self._earlier = self.spool.card()
        self.card = self._earlier or card
        self._uri, self._system_metrics = uri, system_metrics
        self._shipper: Shipper | None = None
        self._sampler: Sampler | None = None
        self._patience = _PATIENCE
        self._begun = False
        self._disk_full = False
        self._not_finite: set[str] = set()

    def open(self, others: Path) -> bool:
        """Start the threads, unless they run; the first time, note whether this continues a run.

        Args:
            others: Folder in which earlier runs may have left records for the same server.

        Returns:
            Whether it was closed.
        """
        if self._shipper is not None:
            return False
        if not self.spool.claim():
            log.warning("another process writes to %s too: two runs are being mixed", self.spool.folder)
        if not self._begun:
            self._begin()
        self._shipper = Shipper(self.spool, self.card, self._uri, others)
        if self._system_metrics:
            self._sampler = Sampler(self._write_system, first=(now_ms() - self.card.started) // 10_000)
        return True

    def write(self, record: Record) -> None:
        """Append a record; what a full disk does not take is lost, which is said once."""
        try:
            self.spool.append(record)
        except OSError as error:
            if not self._disk_full:
                log.error("%s cannot be written to (%s): records are lost from now on", self.spool.folder, error)
            self._disk_full = True

    def write_params(self, flat: dict[str, str]) -> None:
        """Record parameters, those that changed since the run began under a new name."""
        path = self.spool.folder / "params.json"
        try:
            earlier: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = {}
        attempt = max(self.card.resumed, 1)
        fresh, changed = renamed(flat, earlier, attempt)
        if changed:
            log.warning(
                "%d parameters differ from the first time (%s); their new values are logged as NAME.resumed_%d",
                len(changed), ", ".join(changed[:5]), attempt,
            )  # fmt: skip
        if fresh:
            self.write({"kind": "params", "values": fresh})
            with contextlib.suppress(OSError):  # a full disk, which ``write`` has spoken of
                replace_text(path, json.dumps({**earlier, **flat}, indent=1))

    def write_artifact(self, path: Path, folder: str, known: frozenset[str]) -> None:
        """Hold a file or folder in the spool and record it; what cannot be read is left out with a warning."""
        try:
            file = self.spool.keep(path, known)
        except OSError as error:
            log.warning("%s is not stored with the run: %s", path, error)
            return
        self.write({"kind": "artifact", "file": file, "folder": folder})

    def note_not_finite(self, odd: dict[str, str], step: int) -> None:
        """Tag the first step at which a metric was NaN or infinite."""
        fresh = {name: kind for name, kind in odd.items() if name not in self._not_finite}
        self._not_finite |= set(fresh)
        if fresh:
            values = {f"not_finite.{name}"[:250]: f"{kind} at step {step}" for name, kind in fresh.items()}
            self.write({"kind": "tags", "values": values})

    def end(self, status: str, hurry: bool) -> None:
        """Record the status, stop the threads, and wait a bounded time for the server.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
            hurry: Whether this process may be killed soon.
        """
        if self._shipper is None:
            return
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        self.write({"kind": "status", "status": status, "time": now_ms()})
        arrived = self._shipper.finish(self._patience, hurry)
        self._patience = _PATIENCE if arrived else _SECOND_PATIENCE
        if not arrived:
            why = self._shipper.problem or "it is slow"
            log.warning("%d records wait in %s (%s)", self.spool.left(), self.spool.folder, why)
        self._shipper = None
        self.card.ended = status
        with contextlib.suppress(OSError):
            self.spool.save_card(self.card)
        self.spool.release()

    def _begin(self) -> None:
        self._begun = True
        if self._earlier is not None:
            self.card.resumed += 1
            self.write({"kind": "status", "status": "RUNNING", "time": now_ms()})
            self.write({"kind": "tags", "values": {"clipkit.resumed": str(self.card.resumed)}})
        elif self.card.run_id is not None:  # a run that was begun elsewhere
            self.write({"kind": "status", "status": "RUNNING", "time": now_ms()})
        self.card.ended = None
        self.spool.save_card(self.card)

    def _write_system(self, values: dict[str, float], step: int) -> None:
        self.write({"kind": "metrics", "step": step, "time": now_ms(), "values": values})
