"""The MLflow logger: everything goes to a file first, and from there to MLflow in a thread of its own."""

from __future__ import annotations

import atexit
import difflib
import logging
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from clipkit.tracking.destination import absolute_uri, is_local
from clipkit.tracking.journal import Journal
from clipkit.tracking.records import TAG_LIMIT, clean_name, cut, finite_values, flatten, metric_values
from clipkit.tracking.redact import environment_secrets, install_redaction, known_secrets, redact, secrets_in
from clipkit.tracking.runs import find_run, folder_name, is_stop
from clipkit.tracking.spool import RunCard, now_ms
from clipkit.types import ArgumentError

__all__ = ["MLflowLogger"]

log = logging.getLogger(__name__)


class MLflowLogger(Logger):
    """Logs a run to MLflow, and neither stops nor slows it when MLflow is away.

    Every record is appended to ``<save_dir>/<experiment>/<run>/spool`` and sent in order by a background thread. A
    server that refuses, stalls or dies leaves the records there; they are sent when it answers again, when the next
    run with the same URI starts, or by ``clipkit replay``. Checkpoints go beside them, to
    ``<save_dir>/<experiment>/<run>/checkpoints``. No credential reaches any of this, see ``clipkit.tracking.redact``.
    For MLflow, in this process, retries are off, answers are waited for 5 s and telemetry is off, unless its
    environment variables say otherwise.

    Args:
        tracking_uri: ``sqlite:///FILE``, the default, or a server's ``http(s)://`` address.
        experiment: MLflow experiment, made if missing.
        run_name: Name shown; the run's folder name if none is given.
        tags: Further tags.
        run_id: Continue this run: its folder's name, or MLflow's id.
        save_dir: Where runs are kept locally.
        system_metrics: Whether to sample CPU, memory, disk, network and GPUs.

    Raises:
        ArgumentError: For a ``tracking_uri`` that is a plain folder or ``file:``, which MLflow 3 refuses.
    """

    def __init__(
        self,
        tracking_uri: str = "sqlite:///mlflow.db",
        experiment: str = "clipkit",
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
        run_id: str | None = None,
        save_dir: str = "runs",
        system_metrics: bool = True,
    ) -> None:
        super().__init__()
        _check_uri(tracking_uri)
        self._uri_as_given, self._uri = tracking_uri, absolute_uri(tracking_uri)
        self._save_dir = save_dir
        self._tags, self._system_metrics = dict(tags or {}), system_metrics
        self._experiment, self._version, self._given_run_id = find_run(save_dir, redact(experiment), run_id, run_name)
        self._run_name = redact(run_name) if run_name else self._version
        self._killed = False
        self._journal: Journal | None = None
        install_redaction(environment_secrets())

    @property
    def name(self) -> str:
        """The experiment, as a folder name."""
        return folder_name(self._experiment)

    @property
    def version(self) -> str:
        """The run's local id, which is its folder's name; there whether or not the server is."""
        return self._version

    @property
    def save_dir(self) -> str:
        """Where runs are kept."""
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The experiment's folder."""
        return str(Path(self._save_dir) / self.name)

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return str(Path(self.root_dir) / self.version)

    @property
    def spool_dir(self) -> str:
        """Where the run's records are, sent or not."""
        return str(Path(self.log_dir) / "spool")

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None as long as the server has not been reached."""
        return self._card().run_id

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None as long as the server has not been reached."""
        return self._card().experiment_id

    @property
    def unsent(self) -> int:
        """Records that MLflow does not have yet."""
        return self._journal.spool.left() if self._journal is not None else 0

    @property
    def ui_command(self) -> str | None:
        """The line that starts the MLflow UI on an SQLite file; None where a server is already there."""
        if not is_local(self._uri):
            return None
        return f"mlflow server --backend-store-uri {shlex.quote(self._uri_as_given)} --port 5000 --workers 1"

    @property
    def run_url(self) -> str | None:
        """The run's own page in the UI, since MLflow 3 opens on another one; None while the run has no id there."""
        if self.run_id is None:
            return None
        base = "http://127.0.0.1:5000" if is_local(self._uri) else _without_user(self._uri)
        return f"{base}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def continue_run(self, run_id: str) -> None:
        """Write to an earlier run, as with the argument ``run_id``; only before the first record."""
        if self._journal is not None:
            raise RuntimeError(f"{self.version} has records already, {run_id} cannot be continued in its place")
        found = find_run(self._save_dir, self._experiment, run_id, None)
        self._experiment, self._version, self._given_run_id = found

    def closing_lines(self) -> list[str]:
        """What to tell the user at the end: how to see the run, or how to send what could not be sent."""
        lines = []
        if self.run_url is not None:
            lines += [f"MLflow UI: {self.ui_command}"] if self.ui_command else []
            lines += [f"this run:  {self.run_url}"]
        if self.unsent:
            lines.append(f"{self.unsent} records have not reached {redact(self._uri_as_given)}; to send them:")
            lines.append(f"clipkit replay {shlex.quote(self.spool_dir)}")
        return lines

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record metrics at a step; ``@`` in a name becomes ``_at_``; text is left out; infinities go in as NaN."""
        values, odd = finite_values(metric_values(metrics))
        if values:
            self._write({"kind": "metrics", "step": step or 0, "time": now_ms(), "values": values})
        if odd:
            self._open().note_not_finite(odd, step or 0)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Record a nested configuration as dotted parameters.

        MLflow keeps a parameter's first value: one that has changed since (a resumed run) is recorded as
        ``key.resumed_1`` and so on. Values over MLflow's 6,000 characters are cut, with a mark.
        """
        plain = vars(params) if isinstance(params, Namespace) else dict(params)
        install_redaction(secrets_in(plain))
        self._open().write_params(flatten(redact(plain, known_secrets())))

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags on the run; a later value replaces an earlier one."""
        # by key first, while values have structure, then as text
        clean = redact({str(key): value for key, value in tags.items()}, known_secrets())
        texts = {clean_name(key): redact(str(value), known_secrets()) for key, value in clean.items()}
        values = {key: cut(text, TAG_LIMIT, "the log") for key, text in texts.items()}
        if values:
            self._write({"kind": "tags", "values": values})

    @rank_zero_only
    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file or a folder with the run; it may be changed or deleted right after.

        Args:
            path: What to store; the credentials in a text file are not.
            folder: Artifact folder to put it in.
        """
        self._open().write_artifact(Path(path), redact(folder), known_secrets())

    @rank_zero_only
    def log_text(self, text: str, file: str) -> None:
        """Store text with the run, without credentials, under an artifact path such as ``config/config.yaml``.

        A copy stays in the run's own folder, under ``artifacts/``.
        """
        path = Path(self.log_dir) / "artifacts" / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(redact(text, known_secrets()), encoding="utf-8")
        except OSError as error:
            log.warning("%s is not stored with the run: %s", file, error)
            return
        folder = Path(file).parent.as_posix()
        self.log_artifact(path, "" if folder == "." else folder)

    def mark_killed(self) -> None:
        """The run is being stopped from outside: it ends as KILLED, whatever ``finalize`` is told.

        Safe in a signal handler.
        """
        self._killed = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Record how the run ended and wait until MLflow has everything: at most 10 s without progress.

        Args:
            status: Lightning's ``success``, ``finished`` or ``failed``. It says ``failed`` for Ctrl-C and SIGTERM too;
                those are told by the exception being handled and recorded as KILLED.
        """
        if self._journal is not None:
            well = status in ("success", "finished")
            killed = self._killed or (not well and is_stop(sys.exc_info()[1]))
            ended = "KILLED" if killed else "FINISHED" if well else "FAILED"
            self._journal.end(ended, hurry=killed)
            atexit.unregister(self._at_exit)

    def _open(self) -> Journal:
        """The journal, opened at the first record (and again for records that come after the end)."""
        if self._journal is None:
            self._journal = Journal(Path(self.spool_dir), self._new_card(), self._uri, self._system_metrics)
        if self._journal.open(others=Path(self._save_dir)):
            atexit.register(self._at_exit)
            tags, self._tags = self._tags, {}
            self.log_tags(tags)
        return self._journal

    def _write(self, record: dict[str, Any]) -> None:
        self._open().write(record)

    def _at_exit(self) -> None:
        """A script that never said how its run ended: after an uncaught exception it failed."""
        self.finalize("failed" if getattr(sys, "last_value", None) is not None else "success")

    def _new_card(self) -> RunCard:
        uri = redact(self._uri)
        return RunCard(uri, self._experiment, self._run_name, self._version, now_ms(), run_id=self._given_run_id)

    def _card(self) -> RunCard:
        return self._journal.card if self._journal is not None else self._new_card()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_journal": None}


def _check_uri(uri: str) -> None:
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file") or len(scheme) == 1:  # one letter: a drive on Windows
        raise ArgumentError(
            "tracking_uri",
            f"{redact(uri)!r} is a folder, which MLflow 3 no longer writes to; give an SQLite file "
            "(sqlite:///mlflow.db) or a server (http://HOST:PORT)",
        )
    known = ["http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql"]
    near = difflib.get_close_matches(scheme.partition("+")[0], known, n=1, cutoff=0.7)
    if near and scheme.partition("+")[0] not in known:  # others are plug-ins' own
        raise ArgumentError("tracking_uri", f"MLflow knows no {scheme}://; did you mean {near[0]}://?")


def _without_user(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
