"""The runs of a sweep, each in a process and a folder of its own, and what they leave there."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from clipkit.checkpoints import complete_checkpoints
from clipkit.cli.explain import ConfigError
from clipkit.cli.sweep_plan import Run, Sweep, as_yaml, words
from clipkit.tracking import Told, read_history
from clipkit.tracking.redact import redact

__all__ = ["Trainings", "claimed", "last_line", "stopping"]

SIGNALS = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    getattr(signal, "SIGHUP", signal.SIGTERM): signal.SIGTERM,  # the terminal is gone: end as if told to
}
"""What asks a sweep to stop, and how it asks the run under way."""


class Trainings:
    """Runs of a sweep as processes of ``clipkit fit``.

    Args:
        sweep: The sweep.
        folder: Where each run has a folder of its own, by its key: ``metrics.jsonl``, ``output.log``, checkpoints.
        options: Further words of the command: ``--trust MODULE``.
        lock: What ``claimed`` gave; the runs are to hold it too.
    """

    def __init__(self, sweep: Sweep, folder: Path, options: Sequence[str], lock: IO[str]) -> None:
        self.sweep, self.folder, self.options, self.lock = sweep, folder, list(options), lock
        self.child: subprocess.Popen[bytes] | None = None
        self.stopped: int | None = None

    def home(self, run: Run) -> Path:
        """The run's own folder."""
        return self.folder / run.key

    def log(self, run: Run) -> Path:
        """What the run says."""
        return self.home(run) / "output.log"

    def told(self, run: Run) -> Told:
        """The run's metrics, and whether it came to its end."""
        return read_history(self._history(run))

    def train(self, run: Run, logger: Sequence[str], watch: Callable[[str], None]) -> int:
        """Train to the end, from the newest complete checkpoint that an earlier attempt left.

        Args:
            run: The run.
            logger: Overrides that say where it is tracked.
            watch: Called every second with what the run said last.

        Returns:
            The process's exit code.
        """
        self.home(run).mkdir(parents=True, exist_ok=True)
        command = self._command(run, logger)
        with self.log(run).open("a", encoding="utf-8") as out:
            out.write(f"$ {redact(shlex.join(command))}\n")
            out.flush()
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,  # signals come from here alone, once
                pass_fds=() if sys.platform == "win32" else (self.lock.fileno(),),
            )  # fmt: skip
            _sign(self.lock, self.child.pid)
            if self.stopped is not None:  # meanwhile
                self.stop(self.stopped)
            while True:
                try:
                    return self.child.wait(1.0)
                except subprocess.TimeoutExpired:
                    watch(last_line(self.log(run)))

    def stop(self, signum: int, frame: FrameType | None = None) -> None:
        """Ask the run under way to stop, and begin no other; a signal's handler."""
        self.stopped = signum
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(SIGNALS[signal.Signals(signum)])

    def _command(self, run: Run, logger: Sequence[str]) -> list[str]:
        given = [*words(run), f"--trainer.default_root_dir={as_yaml(str(self.home(run)))}", *logger]
        given += ["--metrics", str(self._history(run)), *self.options]
        newest = next((one for one in complete_checkpoints(self.home(run)) if one.finite), None)
        if newest is None:
            self._history(run).unlink(missing_ok=True)  # of an attempt that left nothing to go on from
        else:
            given += ["--resume", str(newest.path)]
        return [sys.executable, "-m", "clipkit", "fit", "-c", str(self.sweep.base), *given]

    def _history(self, run: Run) -> Path:
        return self.home(run) / "metrics.jsonl"


@contextmanager
def stopping(trainings: Trainings) -> Iterator[None]:
    """Let signals stop the run under way, and the sweep with it."""
    before: dict[int, Any] = {signum: signal.signal(signum, trainings.stop) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def claimed(folder: Path) -> Iterator[IO[str]]:
    """Hold a sweep's folder, for this process and those that inherit the open file it gives.

    So a run that a killed sweep left behind holds it too, and is not trained a second time beside itself. Not on
    Windows, which has no such locks.

    Raises:
        ConfigError: Where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                who = f"by another `clipkit sweep`, or a run that one left behind (process {file.read()})"
                raise ConfigError(f"{folder} is in use {who}; wait for it, or end it.") from error
        _sign(file)
        yield file


def _sign(lock: IO[str], *others: int) -> None:
    """Leave the numbers of the processes for whoever finds the folder in use."""
    lock.truncate(0)
    lock.write(" or ".join(str(process) for process in (os.getpid(), *others)))
    lock.flush()


def last_line(log: Path) -> str:
    """The last line with something in it that a run has said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
