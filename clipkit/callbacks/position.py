"""Tells the data module how far the optimiser has come."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

__all__ = ["SamplePosition"]


class SamplePosition(Callback):
    """Keeps ``datamodule.position`` at what the optimiser has consumed, for a checkpoint to hold.

    It is a callback and not part of the task, because ``ModelCheckpoint`` saves before the task's own hook of the same name.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance at the boundaries of optimiser steps."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            data.epoch, data.position = trainer.current_epoch, (batch_idx + 1) * data.batch_size * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the next epoch."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.epoch, data.position = trainer.current_epoch + 1, 0
