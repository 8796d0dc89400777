"""What forward passes write into a model, so that a run that is resumed within a step has it as the step began."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from clipkit.steps import begins_step, ends_step

__all__ = ["RunningStatistics"]

KEY = "buffers_before_step"


class RunningStatistics(pl.Callback):
    """Keeps buffers, such as the running statistics of batch norms, as they were when an optimiser step began.

    They matter only where gradients are accumulated. A checkpoint between two optimiser steps, as validation within an
    epoch may make, holds the model as it is, since the figures are of that; but the step's batches come again in the
    run that goes on from it, and would be counted twice. So it holds the buffers of the step's beginning as well, and
    the run goes on from these.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Tensor] = {}
        self._begun: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin between two optimiser steps."""
        self._begun = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what has changed within the step."""
        now = _buffers(pl_module)
        changed = {name: before for name, before in self._begun.items() if not before.equal(now[name])}
        if changed:
            checkpoint[KEY] = changed

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep them for the first batch: they are not restored into a model that is only validated."""
        self._waiting = checkpoint.get(KEY, {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore what was loaded; remember how a step begins."""
        if self._waiting:
            now = _buffers(pl_module)
            for name, before in self._waiting.items():
                now[name].copy_(before)
            self._waiting = {}
        if trainer.accumulate_grad_batches > 1 and begins_step(trainer, batch_idx):
            self._begun = {name: buffer.clone() for name, buffer in _buffers(pl_module).items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget it once the step is taken."""
        if ends_step(trainer, batch_idx):
            self._begun = {}


def _buffers(module: pl.LightningModule) -> dict[str, Tensor]:
    """What a checkpoint holds of a module's buffers."""
    return {
        f"{prefix}.{name}": buffer
        for prefix, part in module.named_modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    }
