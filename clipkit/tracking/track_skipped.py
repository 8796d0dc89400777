"""Counts and keeps what was left out of training, and stops a run that leaves out too much."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from clipkit.data import REASONS, Skipped, unpack_skips
from clipkit.distributed import gather_objects
from clipkit.steps import ends_step, is_logged
from clipkit.tracking.run_folder import run_folder
from clipkit.types import ArgumentError

__all__ = ["TooManySkipped", "TrackSkipped"]

log = logging.getLogger("clipkit")

KEY = "skipped_samples"


class TooManySkipped(RuntimeError):
    """More samples could not be used than a run bears."""


class TrackSkipped(pl.Callback):
    """Writes every sample that could not be used to ``quarantine.jsonl`` in the run's folder, and logs how many.

    What counts is what training consumed, not what workers read ahead: ``read = used + skipped`` holds exactly, also
    after a resume, for the counts are in the checkpoint: those of the last optimiser step, since batches whose
    gradients are being accumulated come again. Logged are ``data/read``, ``data/used`` and
    ``data/skipped_<reason>``, over all ranks; each rank beyond the first keeps its own ``quarantine-<rank>.jsonl``.

    Args:
        most: Largest share of samples that may be left out.
        after: Samples read before ``most`` is looked at.

    Attributes:
        used: Samples trained on, on this rank.
        skipped: Reason to samples left out, on this rank.

    Raises:
        ArgumentError: For a share that is not in [0, 1].
    """

    def __init__(self, most: float = 0.01, after: int = 1000) -> None:
        super().__init__()
        if not 0 <= most <= 1:
            raise ArgumentError("most", f"{most} is not in [0, 1]")
        self.most, self.after = most, after
        self.used, self._told = 0, False
        self.skipped = dict.fromkeys(REASONS, 0)
        self._at_step = self._counts()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take off the lines of a run that went further than its last checkpoint."""
        file = self._file(trainer)
        if file.is_file():
            kept = _lines(file)[: sum(self.skipped.values())]
            file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; log where others are logged."""
        packed = getattr(batch, "extra", {}).get("skipped")
        if packed is None:  # of a data module that tells nothing
            return
        self.used += len(packed)
        self._keep(trainer, unpack_skips(packed))
        if ends_step(trainer, batch_idx):
            self._at_step = self._counts()
        if is_logged(trainer, trainer.global_step):
            self._log(trainer, pl_module)
        elif trainer.world_size == 1:  # several ranks have to stop together
            self._refuse_too_many(trainer, self.used, self.skipped)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the counts of every rank; Lightning calls this on each."""
        checkpoint[KEY] = gather_objects(self._at_step)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting; what the ranks of another number of ranks had counted goes to the first."""
        counts = checkpoint.get(KEY, [])
        if len(counts) != trainer.world_size:
            counts = counts if trainer.global_rank == 0 else []
        else:
            counts = counts[trainer.global_rank :][:1]
        self.used = sum(count["used"] for count in counts)
        self.skipped = {reason: sum(count["skipped"].get(reason, 0) for count in counts) for reason in REASONS}
        self._at_step = self._counts()

    def _counts(self) -> dict[str, Any]:
        return {"used": self.used, "skipped": dict(self.skipped)}

    def _keep(self, trainer: pl.Trainer, left_out: list[Skipped]) -> None:
        if not left_out:
            return
        for one in left_out:
            self.skipped[one.reason] += 1
        file = self._file(trainer)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8", errors="backslashreplace") as lines:  # a name may be any bytes
                lines.writelines(f"{json.dumps(one._asdict(), ensure_ascii=False)}\n" for one in left_out)
        except OSError as error:  # a full disk: counts go on, and so does the run
            if not self._told:
                log.warning("%s cannot be written (%s); what is left out is counted all the same", file, error)
            self._told = True

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counts = torch.tensor([self.used, *self.skipped.values()], dtype=torch.float64)
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts.to(pl_module.device), reduce_op="sum")
        used, by_reason = int(counts[0]), dict(zip(self.skipped, _whole(counts[1:]), strict=True))
        read = used + sum(by_reason.values())
        figures: dict[str, float] = {"data/read": read, "data/used": used}
        figures |= {f"data/skipped_{reason}": count for reason, count in by_reason.items() if count}
        figures |= self._of_data(trainer, pl_module)
        pl_module.log_dict({name: float(value) for name, value in figures.items()}, batch_size=1)
        self._refuse_too_many(trainer, used, by_reason)

    def _refuse_too_many(self, trainer: pl.Trainer, used: int, by_reason: dict[str, int]) -> None:
        left_out = sum(by_reason.values())
        read = used + left_out
        if read >= self.after and left_out > self.most * read:
            raise TooManySkipped(self._list(trainer, by_reason, read))

    def _of_data(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """What the data module counts, over all ranks: samples that came again, those from each source."""
        ask = getattr(trainer.datamodule, "figures", None)  # type: ignore[attr-defined]  # Lightning sets it
        own: dict[str, float] = {} if ask is None else ask()
        if own and trainer.world_size > 1:
            counts = torch.tensor(list(own.values()), dtype=torch.float64, device=pl_module.device)
            own = dict(zip(own, trainer.strategy.reduce(counts, reduce_op="sum").tolist(), strict=True))
        drawn = {name: count for name, count in own.items() if name.startswith("data/from_")}
        shares = {name.replace("/from_", "/share_"): n / max(1, sum(drawn.values())) for name, n in drawn.items()}
        return {**own, **shares}

    def _list(self, trainer: pl.Trainer, by_reason: dict[str, int], read: int) -> str:
        counts = ", ".join(f"{reason} {count}" for reason, count in by_reason.items() if count)
        file = self._file(trainer)
        lines = _lines(file)[:10] if file.is_file() else []
        first = [json.loads(line) for line in lines]
        shown = "".join(f"\n  {one['source']}, {one['key']}: {one['reason']}: {one['message']}" for one in first)
        share = f"{sum(by_reason.values())} of {read} samples cannot be used, more than {self.most:.1%}"
        return f"{share} ({counts}). The first of them, all in {file}:{shown}"

    def _file(self, trainer: pl.Trainer) -> Path:
        rank = f"-{trainer.global_rank}" if trainer.global_rank else ""
        return run_folder(trainer) / f"quarantine{rank}.jsonl"


def _lines(file: Path) -> list[str]:
    """The lines of a file; unlike ``splitlines`` not parted at the line ends that Unicode has, too."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]


def _whole(counts: Tensor) -> list[int]:
    return [int(count) for count in counts.tolist()]
