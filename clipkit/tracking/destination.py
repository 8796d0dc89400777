"""One run at one MLflow tracking URI: finding or making it, and sending it records. All of it may block and raise."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.tracking.records import Record
from clipkit.tracking.redact import MARK, redact
from clipkit.tracking.spool import RunCard, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Destination", "absolute_uri", "is_local", "usable_uri"]

LOCAL_ID_TAG = "clipkit.run"
_METRICS_A_CALL = 1000  # MLflow's limit
_UPLOADS = 3  # attempts at an artifact while the server answers
_FIRST_TIMEOUT, _LAST_TIMEOUT, _ARTIFACT_TIMEOUT = 5, 60, 60

log = logging.getLogger(__name__)

_timeouts_set: set[str] = set()

# MLflow takes seconds to import, in a thread. Were a data loader's worker forked in the middle of that, it would
# inherit import locks that nobody ever releases; so a fork waits until the import is through.
_importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
    )


class Destination:
    """Where a spool's records go.

    Args:
        uri: Tracking URI, with its credentials if it has any.
        spool: The spool, whose card learns the run's ids.
        card: The run; its ``run_id`` is filled in when the run is found or made.
        expect: Called with a number of seconds before a step that may rightly take that long.
    """

    def __init__(self, uri: str, spool: Spool, card: RunCard, expect: Callable[[float], None] = lambda _: None) -> None:
        self.uri, self.spool, self.card, self.expect = uri, spool, card, expect
        self._client: MlflowClient | None = None
        self._timeout = _FIRST_TIMEOUT
        self._failed_uploads: Counter[str] = Counter()
        self.refuses_artifact = False  # whether the last failure was an upload's, to a server that answers

    def connect(self) -> MlflowClient:
        """The client, once the server has answered and the run exists there."""
        if self._client is not None:
            return self._client
        if is_local(self.uri):
            self.expect(60.0)  # MLflow's first SQLite file takes 3 s to make on an idle machine
            _sqlite_file(self.uri).parent.mkdir(parents=True, exist_ok=True)
        _set_environment()
        _set_timeout(self._timeout)
        with _importing:
            from mlflow import MlflowClient
        _quieten()
        client = MlflowClient(tracking_uri=self.uri)
        if self.card.run_id is None:
            self._make_run(client)
        elif self.card.experiment_id is None:
            self.card.experiment_id = client.get_run(self.card.run_id).info.experiment_id
        self.spool.save_card(self.card)
        self.expect(0.0)
        self._client = client
        return client

    def slower(self) -> None:
        """After a failure: give the server more time for the next answer, in case it is slow and not away."""
        self._timeout = min(2 * self._timeout, _LAST_TIMEOUT)

    def send(self, records: Sequence[Record]) -> None:
        """Send records in order; sending one twice leaves the server as sending it once.

        Raises:
            Exception: Whatever MLflow raises while the server is away; nothing is lost, send them again.
        """
        self.refuses_artifact = False
        client = self.connect()
        _set_timeout(self._timeout)
        for kind, group in groupby(records, key=lambda record: record["kind"]):
            if kind in ("artifact", "status"):
                for record in group:
                    self._send_one(client, record)
            else:
                self._send_values(client, list(_entities(kind, group)))

    def _make_run(self, client: MlflowClient) -> None:
        card = self.card
        experiment = client.get_experiment_by_name(card.experiment)
        card.experiment_id = (
            experiment.experiment_id if experiment is not None else self._make_experiment(client, card.experiment)
        )
        # The answer to an earlier attempt may have been lost after the server had made the run.
        found = client.search_runs([card.experiment_id], f"tags.`{LOCAL_ID_TAG}` = '{card.version}'", max_results=1)
        tags = {LOCAL_ID_TAG: card.version, "mlflow.user": _user()}
        run = found[0] if found else client.create_run(card.experiment_id, card.started, tags, card.name)
        card.run_id = run.info.run_id

    def _make_experiment(self, client: MlflowClient, name: str) -> str:
        return client.create_experiment(name, artifact_location=_artifact_root(self.uri, name))

    def _send_one(self, client: MlflowClient, record: Record) -> None:
        try:
            if record["kind"] == "artifact":
                self._send_artifact(client, record)
            elif record["status"] == "RUNNING":
                client.update_run(self._run_id, status="RUNNING")
            else:
                client.set_terminated(self._run_id, record["status"], record["time"])
        except Exception as error:
            if not self._is_refusal(error):
                raise
            self.spool.reject(record, redact(str(error)))

    def _send_artifact(self, client: MlflowClient, record: Record) -> None:
        path = self.spool.folder / record["file"]
        if not path.exists():
            self.spool.reject(record, "the file is gone from the spool")
            return
        client.get_run(self._run_id)  # the server answers, so that the upload may take its time
        self.expect(15.0 + _size(path) / 1e6)
        _set_timeout(_ARTIFACT_TIMEOUT)
        try:
            client.log_artifact(self._run_id, str(path), record["folder"] or None)
        except Exception as error:  # no way to its store, say: that must not hold up the metrics for ever
            self._failed_uploads[record["file"]] += 1
            if self._failed_uploads[record["file"]] < _UPLOADS:
                self.refuses_artifact = True
                raise
            log.warning("%s was put aside in %s: %s", path.name, self.spool.folder / "rejected", redact(str(error)))
            self.spool.reject(record, redact(str(error)))
        self.expect(0.0)

    def _send_values(self, client: MlflowClient, entities: list[tuple[str, Any, Record]]) -> None:
        for start in range(0, len(entities), _METRICS_A_CALL):
            self._send_batch(client, entities[start : start + _METRICS_A_CALL])

    def _send_batch(self, client: MlflowClient, batch: list[tuple[str, Any, Record]]) -> None:
        """One call; where the server refuses it, halves, until what it refuses stands alone."""
        field = batch[0][0]
        try:
            entities: dict[str, Any] = {field: [entity for _, entity, _ in batch]}
            client.log_batch(self._run_id, **entities)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            if len(batch) > 1:
                self._send_batch(client, batch[: len(batch) // 2])
                self._send_batch(client, batch[len(batch) // 2 :])
            elif not self._sent_renamed(client, batch[0]):
                self.spool.reject(batch[0][2], redact(str(error)))

    def _sent_renamed(self, client: MlflowClient, refused: tuple[str, Any, Record]) -> bool:
        """A parameter that the run has with another value (its own spool is not here): log it under a free name."""
        field, param, _ = refused
        if field != "params":
            return False
        there = client.get_run(self._run_id).data.params
        if there.get(param.key, param.value) == param.value:
            return False
        names = (f"{param.key}.resumed_{attempt}" for attempt in range(1, 100))
        free = next(name for name in names if there.get(name, param.value) == param.value)
        client.log_batch(self._run_id, params=[type(param)(free, param.value)])
        return True

    @property
    def _run_id(self) -> str:
        if self.card.run_id is None:
            raise RuntimeError("connect first")
        return self.card.run_id

    def _is_refusal(self, error: Exception) -> bool:
        """Whether the same request can never succeed; anything in doubt is tried again."""
        from mlflow.exceptions import MlflowException, RestException

        ours = isinstance(error, MlflowException) if is_local(self.uri) else isinstance(error, RestException)
        return ours and getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def is_local(uri: str) -> bool:
    """Whether the tracking URI is an SQLite file."""
    return uri.startswith("sqlite:")


def absolute_uri(uri: str) -> str:
    """The URI with an SQLite file's path made absolute, so that it means the same from every folder."""
    head = "sqlite:///"
    if not uri.startswith(head) or uri == f"{head}:memory:":
        return uri
    return head + Path(uri.removeprefix(head)).expanduser().absolute().as_posix()


def _sqlite_file(uri: str) -> Path:
    return Path(absolute_uri(uri).removeprefix("sqlite:///"))


def _artifact_root(uri: str, experiment: str) -> str | None:
    """``mlartifacts/<experiment>`` beside an SQLite file; any server knows its own place."""
    if not is_local(uri):
        return None
    folder = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in experiment)
    return (_sqlite_file(uri).parent / "mlartifacts" / folder).as_uri()


def _entities(kind: str, records: Iterator[Record]) -> Iterator[tuple[str, Any, Record]]:
    """MLflow's objects for records of one kind: the argument of ``log_batch``, the object, and a record of it alone."""
    from mlflow.entities import Metric, Param, RunTag

    for record in records:
        for name, value in record["values"].items():
            alone = {**record, "values": {name: value}}
            if kind == "metrics":
                yield "metrics", Metric(name, value, record["time"], record["step"]), alone
            elif kind == "params":
                yield "params", Param(name, value), alone
            elif kind == "tags":
                yield "tags", RunTag(name, value), alone


def _set_environment() -> None:
    """MLflow's own retries last minutes; ours wait between attempts without holding anything up."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def _set_timeout(seconds: int) -> None:
    """Set how long MLflow waits for an answer, which it reads from the environment at each call and nowhere else.

    A value that is the user's stays. Overwriting ours does not disturb other threads' reading of the environment.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    if os.environ.get(name) in (None, *_timeouts_set):
        _timeouts_set.add(str(seconds))
        os.environ[name] = str(seconds)


def _quieten() -> None:
    """No lines about database tables in the middle of a progress bar."""
    for name in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def usable_uri(stored: str, given: str | None) -> str | None:
    """The URI to send to, from the stored one and one that may have credentials; None where they differ."""
    for uri in (given, os.environ.get("MLFLOW_TRACKING_URI")):
        if uri is not None and redact(absolute_uri(uri)) == stored:
            return absolute_uri(uri)
    return stored if given is None and MARK not in stored else None
