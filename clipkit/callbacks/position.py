"""Counts the samples that training has consumed, so that a resumed run goes on with the next one."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from clipkit.steps import ends_step

__all__ = ["SamplePosition"]


class SamplePosition(pl.Callback):
    """Advances the data module (its ``advance``) at each optimiser step; a data module without that is left alone.

    It is a callback because ModelCheckpoint saves before the LightningModule's own hook for the end of a batch, which
    would be one step late. It may stand anywhere among the callbacks: those that save come last. Gradients that are
    being accumulated are not saved, so a checkpoint made between two optimiser steps goes back to the earlier one.
    """

    def __init__(self) -> None:
        self.pending = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin between two optimiser steps."""
        self.pending = 0
        loop = trainer.fit_loop
        if loop.restarted_mid_epoch and loop.epoch_progress.current.completed == loop.epoch_progress.current.ready:
            # Resumed after the last batch of an epoch, it counts that one as done but the next one never as begun: a
            # checkpoint within it would be taken for one of a finished epoch, and its batches counted from 0 again.
            loop.reset_restart_stage()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                # It forgets over a resume that this step is saved, and would save it again in the middle of the next.
                callback._last_global_step_saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batches of an optimiser step once it is taken."""
        self.pending += 1
        if ends_step(trainer, batch_idx):
            advance = getattr(getattr(trainer, "datamodule", None), "advance", None)
            if advance is not None:
                advance(self.pending)
            self.pending = 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the trainer's count of batches agree with the data module's."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            for state in counts:
                counts[state] -= self.pending
