"""The state of every random generator in the checkpoint, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from clipkit.distributed import gather_objects
from clipkit.steps import begins_step, ends_step

__all__ = ["RandomState"]

KEY = "random_state"


class RandomState(pl.Callback):
    """Saves Python's, NumPy's and torch's random states of every rank, as plain numbers and tensors, and restores them.

    They are restored before the first batch and not earlier, because making the loaders draws numbers too. A checkpoint
    within a step, among batches whose gradients are accumulated, holds those of the step's beginning: its batches come
    again.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Any] | None = None
        self._begun: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin between two optimiser steps."""
        self._begun = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states, one a rank; Lightning calls this on every rank."""
        checkpoint[KEY] = gather_objects(self._begun or _state())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep this rank's for the first batch."""
        states = checkpoint.get(KEY, [])
        self._waiting = states[trainer.global_rank] if len(states) == trainer.world_size else None
        if states and self._waiting is None:
            rank_zero_warn(f"the random states of {len(states)} ranks do not fit {trainer.world_size}: they begin anew")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on where the checkpoint was made; remember where a step begins."""
        if self._waiting is not None:
            _restore(self._waiting)
            self._waiting = None
        if trainer.accumulate_grad_batches > 1 and begins_step(trainer, batch_idx):
            self._begun = _state()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget it once the step is taken."""
        if ends_step(trainer, batch_idx):
            self._begun = None


def _state() -> dict[str, Any]:
    version, words, normal = random.getstate()
    name, keys, place, has_normal, second = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), normal],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(place),
            int(has_normal),
            float(second),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore(state: dict[str, Any]) -> None:
    version, words, normal = state["python"]
    random.setstate((version, tuple(words), normal))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
