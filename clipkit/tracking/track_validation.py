"""Counts what was left out of validation, and says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from clipkit.data import Skipped, unpack_skips
from clipkit.distributed import gather_objects

__all__ = ["TrackValidation"]


class TrackValidation(pl.Callback):
    """Says at the end of the first validation how many of its samples cannot be used, and logs it after each.

    In the place of such a sample stands another row of the set, so figures with many of them are those of another set.
    Logged, over all ranks and where there are any, are ``val/skipped_<reason>``; what was left out when the set was
    read (rows with no caption, what a stream could not read) counts each time. A row counts once, though it may be met
    again in the place of another, or where the last round of several ranks is filled up.

    Attributes:
        skipped: Reason to samples left out, of the latest validation, over all ranks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped: dict[str, int] = {}
        self._before: list[Skipped] = []
        self._found: dict[Skipped, None] = {}  # in the order in which they were met
        self._told = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start anew, with what was left out beforehand."""
        before = getattr(trainer.datamodule, "val_left_out", ())  # type: ignore[attr-defined]  # Lightning sets it
        self._before, self._found = list(before), {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        packed = getattr(batch, "extra", {}).get("skipped")
        if packed is not None:
            self._found.update(dict.fromkeys(unpack_skips(packed)))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up, log, and say it once."""
        if trainer.sanity_checking:
            return
        every = [*self._before, *dict.fromkeys(chain.from_iterable(gather_objects(list(self._found))))]
        self.skipped = dict(Counter(one.reason for one in every))
        figures = {f"val/skipped_{reason}": float(count) for reason, count in self.skipped.items()}
        pl_module.log_dict(figures, batch_size=1, sync_dist=True)  # the same on all ranks; without, Lightning warns
        if self.skipped and not self._told:
            rank_zero_warn(self._message(every))
            self._told = True

    def _message(self, every: Sequence[Skipped]) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items())
        first = [f"\n  {one.source}, {one.key}: {one.reason}: {one.message}" for one in every[:3]]
        told = f"{sum(self.skipped.values())} samples of the validation set cannot be used ({reasons}); its figures are"
        return f"{told} those of the others{'. Some of them:' if first else ''}{''.join(first)}"
