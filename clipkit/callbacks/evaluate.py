"""Runs evaluation tasks during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import nn

from clipkit.evaluation import Evaluator, check_tasks, make_evaluator, read_tasks
from clipkit.types import ArgumentError

__all__ = ["EvaluateTasks"]


class EvaluateTasks(Callback):
    """Scores ``pl_module.model`` on tasks every few epochs and logs ``<task>/<metric>``, ``emoji/cells/acc1`` for one.

    In an epoch with validation, tasks run as part of it, else at the end of the epoch. Either way the figures are there
    before ``ModelCheckpoint`` and ``EarlyStopping`` look for their ``monitor``, in whatever order callbacks are given.
    With ``every_n_epochs`` above 1, give ``ModelCheckpoint`` the same.

    With Lightning's ``EMAWeightAveraging`` (any ``WeightAveraging``) the averaged weights are scored, which are those
    that validation sees and that a checkpoint holds as its ``state_dict``. That callback trades the weights in place in
    its ``on_validation_epoch_start`` and back in its ``on_validation_epoch_end``. The order of callbacks decides
    whether another one's hook of the same name falls between the two, and an epoch without validation trades nothing.
    So this callback evaluates where no trade is under way, in ``on_validation_start`` or ``on_train_epoch_end``, and
    calls the pair of hooks itself around it. Where averages are updated by epoch and not by step, list the averaging
    callback first.

    Args:
        tasks: Names of tasks, ``emoji/cells`` for one.
        every_n_epochs: Evaluate after each n-th epoch, and after the last.
        batch_size: Images at a time; each task's own where ``null``.
        benchmarks: YAML files that declare further tasks, of clipkit's own evaluators: a YAML cannot trust itself.

    Attributes:
        results: Task to metric to value, of the last evaluation.
        artifacts: Task to what its evaluator left for pictures, of the last evaluation.

    Raises:
        ArgumentError: There is no such task, or its evaluator cannot be built.
    """

    def __init__(
        self,
        tasks: list[str],
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        benchmarks: list[str] | None = None,
    ) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ArgumentError("every_n_epochs", f"{every_n_epochs} is less than 1")
        self.every_n_epochs = every_n_epochs
        self.evaluators = _evaluators(tasks, batch_size, benchmarks or [])
        self.results: dict[str, dict[str, float]] = {}
        self.artifacts: dict[str, dict[str, object]] = {}
        self._fresh = False  # whether the validation under way has results to log
        self._done_epoch = -1  # the last epoch whose validation evaluated

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate as part of validation, before its first batch."""
        self._fresh = trainer.state.fn == "validate" or (not trainer.sanity_checking and self._due(trainer))
        if self._fresh:
            self._evaluate(trainer, pl_module)
            self._done_epoch = trainer.current_epoch

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what validation found: before checkpoints, which are saved in ``on_validation_end`` or later."""
        if self._fresh:
            self._log(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate where validation has not; Lightning calls this hook of callbacks that monitor something last."""
        if self._done_epoch != trainer.current_epoch and self._due(trainer):
            self._evaluate(trainer, pl_module)
            self._log(pl_module)

    def _due(self, trainer: pl.Trainer) -> bool:
        done = trainer.current_epoch + 1
        last = done == trainer.max_epochs or trainer.global_step == trainer.max_steps
        return last or done % self.every_n_epochs == 0

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model = pl_module.model
        assert isinstance(
            model, nn.Module
        )  # the network of a clipkit task; an attribute of a module may be a tensor, too
        with _averaged(trainer, pl_module):
            self.results = {task: evaluator(model) for task, evaluator in self.evaluators.items()}
        self.artifacts = {task: getattr(evaluator, "artifacts", {}) for task, evaluator in self.evaluators.items()}

    def _log(self, pl_module: pl.LightningModule) -> None:
        for task, figures in self.results.items():
            named = {f"{task}/{metric}": value for metric, value in figures.items()}
            # The same on every rank already: sync_dist only keeps Lightning from warning. One value, so a batch of one.
            pl_module.log_dict(named, sync_dist=True, batch_size=1)


@contextmanager
def _averaged(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """The averaged weights in place of the current ones, where a callback averages."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it from another class
    averaging = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for callback in averaging:
        callback.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for callback in reversed(averaging):
            callback.on_validation_epoch_end(trainer, pl_module)


def _evaluators(names: Sequence[str], batch_size: int | None, benchmarks: Sequence[str]) -> dict[str, Evaluator]:
    tasks = read_tasks(benchmarks)
    check_tasks(names, tasks)
    overrides: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    return {name: make_evaluator(tasks[name], **overrides) for name in names}
