"""One go at a sweep: what is not yet trained is trained, run after run, and what there is then is compared."""

from __future__ import annotations

import time

from rich.console import Console
from rich.text import Text

from clipkit.cli.document import shown
from clipkit.cli.explain import ConfigError, Place, did_you_mean
from clipkit.cli.sweep_plan import Run
from clipkit.cli.sweep_report import lines, to_table, write_report
from clipkit.cli.sweep_run import Trainings, last_line
from clipkit.cli.sweep_tracking import child_words, closing_lines
from clipkit.tracking import MLflowLogger, Told
from clipkit.tracking.history import Curve

__all__ = ["SweepSession"]


class SweepSession:
    """Goes through the runs of a sweep.

    Args:
        trainings: The runs.
        parent: The run in MLflow that they are children of, or None.
        uri: Where runs are tracked whose configuration names no logger.

    Attributes:
        curves: The metric of each finished run.
        failed: The exit code of each run that failed.
    """

    def __init__(self, trainings: Trainings, parent: MLflowLogger | None, uri: str) -> None:
        self.trainings, self.parent, self.uri = trainings, parent, uri
        self.console = Console()
        self.curves: dict[Run, Curve] = {}
        self.failed: dict[Run, int] = {}

    def run(self) -> int:
        """Train each run, report, and return the exit code.

        Raises:
            ConfigError: Where a run has finished without logging the metric.
        """
        well = False
        runs = self.trainings.sweep.runs
        try:
            for number, run in enumerate(runs, 1):
                if self.trainings.stopped is None:
                    self._one(run, f"[{number}/{len(runs)}] {run}")
            self._report()
            well = not self.failed and self.trainings.stopped is None
        finally:
            self._end(well)
        stopped = self.trainings.stopped
        return 128 + stopped if stopped is not None else 0 if well else 1

    def _one(self, run: Run, name: str) -> None:
        began, earlier, code = time.monotonic(), self.trainings.told(run).finished, 0
        if not earlier:
            code = self._train(run, name)
        told = self.trainings.told(run)
        if told.finished:
            self.curves[run] = curve = self._curve(run, told)
            took = "finished before" if earlier else f"in {_clock(time.monotonic() - began)}"
            _say(f"{name}: {list(curve.values())[-1]:.4f}, {took}")
        elif self.trainings.stopped is None:
            self.failed[run] = code
            _say(f"{name}: failed")
        else:
            _say(f"{name}: stopped")

    def _train(self, run: Run, name: str) -> int:
        words = child_words(run, self.trainings.home(run), self.uri, self.parent)
        if not self.console.is_terminal:
            return self.trainings.train(run, words, lambda _: None)
        room = self.console.width - 3  # of one line, beside the spinner
        with self.console.status(Text(name[:room])) as status:
            return self.trainings.train(run, words, lambda said: status.update(Text(f"{name}  {said}"[:room])))

    def _curve(self, run: Run, told: Told) -> Curve:
        metric, path = self.trainings.sweep.metric, self.trainings.sweep.path
        if metric not in told.curves:
            hint = did_you_mean(metric, [name for name in told.curves if not name.startswith("train/")])
            again = "Runs that have finished are kept: correct it and start again."
            raise ConfigError(f"metric: {run} has logged no {metric}. {hint} {again}", Place(shown(path)))
        return told.curves[metric]

    def _report(self) -> None:
        sweep = self.trainings.sweep
        if self.curves:
            self.console.print(to_table(sweep, lines(sweep, self.curves)))
            for file in write_report(sweep, self.curves, self.trainings.folder):
                _say(str(file))
                if self.parent is not None:
                    self.parent.log_artifact(file)
        for run, code in self.failed.items():
            log = self.trainings.log(run)
            _say(f"failed: {run} (exit code {code}; {log}): {last_line(log)}")

    def _end(self, well: bool) -> None:
        if self.parent is None:
            return
        if self.trainings.stopped is not None:
            self.parent.mark_killed()
        self.parent.finalize("success" if well else "failed")
        for line in closing_lines(self.parent, self.trainings.folder):
            _say(line)


def _say(line: str) -> None:
    print(line, flush=True)  # not through rich, which would break a long line that is to be copied


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
