"""A run's metrics as lines of JSON in one file, for programs that read them when the run is over, or before."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["Curve", "History", "Told", "read_history"]

Curve = dict[int, float]
"""Images seen to value, in the order of the images."""


class History(Logger):
    """Appends every metric to a file: ``{"step": 3, "images": 128, "values": {"val/loss": 3.2}}``, a line a step.

    ``images`` is how many the optimiser has seen: (step + 1) * images_a_step, since Lightning counts steps from 0. The
    last line of a run that came to its end is ``{"finished": true}``. A run that is continued goes on in its file; what
    it tells again takes the place of what was told before.

    Args:
        path: The file; its folder is made.
        images_a_step: The effective batch: images a device * devices * accumulated batches.
    """

    def __init__(self, path: str | Path, images_a_step: int) -> None:
        super().__init__()
        self.path, self.images_a_step = Path(path), images_a_step

    # Where it is a trainer's only logger, checkpoints go where they go without any.
    @property
    def name(self) -> str:
        """Nothing: it makes no folder."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: it makes no folder."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a line; what is not finite is ``null`` there, since JSON has no word for it."""
        step = step or 0
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write({"step": step, "images": (step + 1) * self.images_a_step, "values": values})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: only metrics are kept."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Say that the run came to its end, if it did."""
        if status == "success":
            self._write({"finished": True})

    def _write(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # on a line of its own, whatever a killed run left of the last one
            file.write(f"\n{json.dumps(record, allow_nan=False)}")


class Told(NamedTuple):
    """What a history tells.

    Attributes:
        curves: Metric to its curve; NaN where a value was not finite.
        finished: Whether the run came to its end.
    """

    curves: dict[str, Curve]
    finished: bool


def read_history(path: Path) -> Told:
    """Read what ``History`` wrote; a file that is not there tells nothing, a torn line nothing either."""
    curves: dict[str, Curve] = {}
    finished = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        finished = "finished" in record  # not so where it was continued since
        for name, value in record.get("values", {}).items():
            curves.setdefault(name, {})[record["images"]] = math.nan if value is None else value
    return Told({name: dict(sorted(curve.items())) for name, curve in curves.items()}, finished)
