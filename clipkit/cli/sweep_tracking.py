"""A sweep in MLflow: one parent run, and what makes every run its child."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipkit.cli.sweep_plan import Run, Sweep, as_yaml
from clipkit.tracking import MLflowLogger, find_spools
from clipkit.tracking.destination import absolute_uri, is_local
from clipkit.tracking.redact import redact
from clipkit.tracking.spool import Spool

__all__ = ["child_words", "closing_lines", "open_parent"]

MLFLOW = "clipkit.tracking.MLflowLogger"
PARENT = "mlflow.parentRunId"
PATIENCE = {"file": 60.0, "server": 15.0}
"""Seconds in which the parent run is to exist; MLflow's import and its first SQLite file take 10 on two idle cores."""


def open_parent(sweep: Sweep, folder: Path, uri: str) -> MLflowLogger | None:
    """Begin the parent run, or go on with that of an earlier attempt.

    Args:
        sweep: The sweep.
        folder: Its folder; the parent's records go below it.
        uri: Where runs are tracked whose configuration names no logger.

    Returns:
        The parent, whose ``run_id`` is None where the server did not answer in time; None where no run is tracked by
        ``MLflowLogger``.
    """
    given = next((found for run in sweep.runs if (found := _tracked(run.config, uri)) is not None), None)
    if given is None:
        return None
    home = folder / "parent"
    cards = [Spool(spool).card() for spool in find_spools(home)]
    stored = redact(absolute_uri(given["tracking_uri"]))
    earlier = next((card.version for card in cards if card is not None and card.uri == stored), None)
    parent = MLflowLogger(**given, run_name=sweep.path.stem, run_id=earlier, save_dir=str(home), system_metrics=False)
    parent.log_hyperparams(sweep.values)
    parent.log_text(sweep.path.read_text(encoding="utf-8"), "sweep.yaml")
    deadline = time.monotonic() + PATIENCE["file" if is_local(given["tracking_uri"]) else "server"]
    while parent.run_id is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return parent


def closing_lines(parent: MLflowLogger, folder: Path) -> list[str]:
    """What to tell the user at the end: how to see the sweep, or how to send what could not be sent."""
    waiting = sum(Spool(spool).left() for spool in find_spools(folder))
    if not waiting:
        return parent.closing_lines()
    return [f"{waiting} records have not reached the tracker; to send them:", f"clipkit replay {folder}"]


def child_words(run: Run, home: Path, uri: str, parent: MLflowLogger | None) -> list[str]:
    """Return the overrides that keep a run's records in its folder and put it below the parent.

    A run with a logger of another kind, a list of them or none is left as it is.
    """
    if parent is None or _tracked(run.config, uri) is None:
        return []
    tags = {} if parent.run_id is None else {PARENT: parent.run_id}
    given: dict[str, Any] = {"save_dir": str(home), "run_name": str(run), "tags": tags}
    if isinstance(run.config["trainer"].get("logger"), dict):
        return [f"--trainer.logger.{key}={as_yaml(value)}" for key, value in given.items()]
    return [f"--trainer.logger={as_yaml({'class_path': MLFLOW, 'tracking_uri': uri, **given})}"]


def _tracked(config: Mapping[str, Any], uri: str) -> dict[str, Any] | None:
    """Return address and experiment of a run's ``MLflowLogger``, the default one included; None for other loggers."""
    logger = config["trainer"].get("logger")
    if logger in (None, True):
        return {"tracking_uri": uri}
    if isinstance(logger, dict) and logger.get("class_path") == MLFLOW:
        return {key: logger[key] for key in ("tracking_uri", "experiment")}
    return None
