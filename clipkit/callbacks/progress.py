"""One line while training runs: loss, images a second, scale, time left."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clipkit.steps import is_logged
from clipkit.types import ImageTextBatch

__all__ = ["TrainingProgress"]


class TrainingProgress(ProgressBar):
    """A rich bar in a terminal; a line every ``seconds`` where the output goes to a file.

    Loss and scale are those of the last step that was logged, for which the device is waited for anyhow; where it is a
    CPU, of the newest.

    Args:
        seconds: Between lines of plain output.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began = self._said = 0.0
        self._images = self._first_step = self._step = 0
        self._figures = ""

    def disable(self) -> None:
        """Say nothing; Lightning asks it of every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Speak again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._began = self._said = time.monotonic()
        self._images, self._figures = 0, ""
        self._first_step = self._step = trainer.global_step
        if self._enabled and sys.stderr.isatty():
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("epoch 1", total=_steps(trainer), completed=trainer.global_step, figures="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Show where the run is."""
        self._images += len(batch.image) * trainer.world_size
        now = time.monotonic()
        stepped, self._step = trainer.global_step != self._step, trainer.global_step  # else it still accumulates
        last = trainer.global_step == _steps(trainer)
        due = last or now - self._said >= (0.2 if self._bar else self.seconds)
        if not self._enabled:
            return
        free = due and outputs["loss"].device.type == "cpu"
        if free or (stepped and (last or is_logged(trainer, trainer.global_step))):
            self._figures = f"{_read(outputs)}  "
        if due:
            self._said = now
            self._show(trainer, now - self._began)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that what is printed next has the terminal to itself."""
        self._close()

    def _show(self, trainer: pl.Trainer, seconds: float) -> None:
        figures = f"{self._figures}{self._images / seconds:,.0f} images/s"
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        epoch, total = f"epoch {trainer.current_epoch + 1}/{epochs}", _steps(trainer)
        if self._bar is not None:
            self._bar.update(self._task, description=epoch, completed=trainer.global_step, figures=figures)
            return
        rate = (trainer.global_step - self._first_step) / seconds
        left = f"  {_clock((total - trainer.global_step) / rate)} left" if total and rate else ""
        sys.stderr.write(f"{epoch}  step {trainer.global_step}{f'/{total}' if total else ''}  {figures}{left}\n")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _read(outputs: Any) -> str:
    """Loss and scale, for which the device is waited for."""
    # Not the head's own: of a sharded one this rank may hold nothing, and asking takes all ranks.
    scale = getattr(outputs.get("outputs"), "logit_scale", None)
    return f"loss {float(outputs['loss']):.3f}" + (f"  scale {float(scale):.1f}" if scale is not None else "")


def _steps(trainer: pl.Trainer) -> int | None:
    total = trainer.estimated_stepping_batches
    return int(total) if total != float("inf") else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
