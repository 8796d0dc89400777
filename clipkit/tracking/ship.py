"""Sending spooled records: by a daemon thread while a run goes on, and afterwards by ``replay``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from clipkit.tracking.destination import Destination, usable_uri
from clipkit.tracking.redact import redact
from clipkit.tracking.spool import RunCard, Spool, find_spools, now_ms

__all__ = ["Replayed", "Shipper", "replay", "send_all"]

log = logging.getLogger(__name__)

_INTERVAL = 2.0  # s between looks at the spool
_BACK_OFF = (1.0, 30.0)  # s after the first failure, and at most
_LAST_TRIES = 0.5  # s between attempts while somebody waits for the end


class Replayed(NamedTuple):
    """What came of replaying one spool.

    Attributes:
        folder: The spool.
        sent: Records that arrived.
        left: Records that still wait.
        problem: Why they wait, or None.
        run_id: MLflow's id of the run, where it is known.
    """

    folder: Path
    sent: int
    left: int
    problem: str | None = None
    run_id: str | None = None


class Shipper:
    """A daemon thread that sends a spool's records in order, as they come, for as long as it takes.

    Args:
        spool: The spool, claimed by this process.
        card: The run.
        uri: Tracking URI, with its credentials.
        others: A folder whose other spools for the same URI are sent too, whenever there is nothing else to do.
    """

    def __init__(self, spool: Spool, card: RunCard, uri: str, others: Path | None = None) -> None:
        self._spool, self._uri, self._others = spool, uri, others
        self._destination = Destination(uri, spool, card, self._expect)
        self._wake, self._ending, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._progress = time.monotonic()
        self._busy_until = 0.0
        self._away: str | None = None
        self._thread = threading.Thread(target=self._run, name="clipkit-tracking", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why the last attempt failed; None while all is well."""
        return self._away

    def finish(self, patience: float, hurry: bool = False) -> bool:
        """Wait until everything has arrived, at most ``patience`` seconds after the last sign of progress.

        Args:
            patience: Seconds.
            hurry: Whether to wait ``patience`` in all, progress or not (something is about to kill this process).

        Returns:
            Whether everything has arrived; if not, the records stay in the spool.
        """
        self._progress = start = time.monotonic()
        self._ending.set()
        self._wake.set()
        try:
            while self._thread.is_alive():
                self._thread.join(0.05)
                now = time.monotonic()
                if now > max(self._progress + patience, self._busy_until) or (hurry and now > start + patience):
                    break
        except KeyboardInterrupt:  # whoever waits here has had enough of waiting, and no more than that
            log.warning("not waiting for the tracking server any longer")
        self._stopped.set()
        self._wake.set()
        return not self._spool.read(1)

    def _run(self) -> None:
        wait = _INTERVAL
        while not self._stopped.is_set():
            self._wake.wait(_LAST_TRIES if self._ending.is_set() and self._away else wait)
            self._wake.clear()
            try:
                wait = self._round()
            except Exception as error:  # anything at all: the run must not notice
                wait = self._failed(error, wait)
            if self._ending.is_set() and not self._away and not self._spool.read(1):
                return

    def _round(self) -> float:
        send_all(self._spool, self._destination, self._stopped.is_set, self._note_progress)
        if not self._stopped.is_set():  # otherwise nothing was asked
            self._answered()
        if self._others is not None and not self._ending.is_set():
            others, self._others = self._others, None
            self._send_others(others)
        return _INTERVAL

    def _send_others(self, root: Path) -> None:
        for folder in find_spools(root):
            if folder == self._spool.folder or not _unfinished(Spool(folder)):
                continue
            done = replay(folder, self._uri, lambda: self._ending.is_set() or self._stopped.is_set())
            if done.sent:
                log.info("sent %d records of an earlier run from %s", done.sent, folder)

    def _failed(self, error: Exception, wait: float) -> float:
        self._busy_until = 0.0
        self._destination.slower()
        reason = _reason(error)
        if self._away is None:
            log.warning(
                "the tracking server at %s does not answer (%s); the run goes on, its records wait in %s",
                redact(self._uri), reason, self._spool.folder,
            )  # fmt: skip
        self._away = reason
        return min(max(2 * wait, _BACK_OFF[0]), _BACK_OFF[1])

    def _answered(self) -> None:
        if self._away is not None:
            log.warning("the tracking server at %s answers again; no record was lost", redact(self._uri))
        self._away = None

    def _note_progress(self) -> None:
        self._progress = time.monotonic()

    def _expect(self, seconds: float) -> None:
        """A step begins that may take so long; with 0 it has come to its end, which is progress."""
        if seconds == 0.0:
            self._note_progress()
        self._busy_until = time.monotonic() + seconds if seconds else 0.0


def send_all(
    spool: Spool,
    destination: Destination,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Send what waits in a spool, in order, noting after each part how far it got.

    Args:
        spool: Read from its offset on.
        destination: Where to.
        stop: Asked before each part.
        progress: Called after each part.

    Returns:
        Records sent.

    Raises:
        Exception: Whatever the server's absence raises; what was noted before stays noted.
    """
    sent = 0
    while not stop() and (lines := spool.read()):
        # An artifact goes alone: it may take long, and what stands before it should be noted by then
        alone = next((i for i, (_, record) in enumerate(lines) if record and record["kind"] == "artifact"), len(lines))
        part = lines[: max(alone, 1)]
        records = [record for _, record in part if record is not None]
        destination.send(records)
        spool.advance(part[-1][0])
        sent += len(records)
        for record in records:
            if record["kind"] == "artifact":
                spool.drop(record["file"])
        progress()
    return sent


def replay(folder: Path, uri: str | None = None, stop: Callable[[], bool] = lambda: False) -> Replayed:
    """Send what a finished, interrupted or killed run has left in its spool.

    A run whose process ended without saying how is closed as FAILED.

    Args:
        folder: The spool.
        uri: Tracking URI where the stored one lacks its credentials; a spool for another URI is left alone.
        stop: Asked between parts.

    Returns:
        What came of it; nothing is raised for a server that is away.
    """
    spool, card = Spool(folder), Spool(folder).card()
    if card is None:
        return Replayed(folder, 0, spool.left(), "run.json is missing or not readable")
    target = usable_uri(card.uri, uri)
    if target is None:
        return Replayed(folder, 0, spool.left(), f"its records are for {card.uri}: give that URI, with its credentials")
    before = spool.left()
    if not spool.claim():
        return Replayed(folder, 0, spool.left(), "a run is still writing to it", card.run_id)
    problem = None
    try:
        _close_dead_run(spool, card)
        before = spool.left()
        _send_stubbornly(spool, Destination(target, spool, card), stop)
    except Exception as error:  # the server is away, or the disk is full: say it, and leave the records
        problem = _reason(error)
    finally:
        spool.release()
    left = spool.left()
    return Replayed(folder, max(before - left, 0), left, problem, card.run_id)


def _send_stubbornly(spool: Spool, destination: Destination, stop: Callable[[], bool]) -> None:
    """Try again while the server is there and only an artifact is not accepted, which is put aside in the end."""
    while True:
        try:
            send_all(spool, destination, stop)
        except Exception:
            if not destination.refuses_artifact:
                raise
        else:
            return


def _unfinished(spool: Spool) -> bool:
    card = spool.card()
    return card is not None and (card.ended is None or bool(spool.read(1)))


def _close_dead_run(spool: Spool, card: RunCard) -> None:
    if card.ended is not None:
        return
    spool.append({"kind": "tags", "values": {"clipkit.end": "the process ended without saying how"}})
    spool.append({"kind": "status", "status": "FAILED", "time": now_ms()})
    card.ended = "FAILED"
    spool.save_card(card)


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom: "Connection refused", rather than what four libraries made of it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = str(redact(str(error))).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]
