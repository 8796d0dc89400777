"""Ctrl-C, SIGTERM and SIGUSR1 stop a run at the next optimiser step, saved."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.distributed import world_size

__all__ = ["Interrupt", "RunInterrupted"]

log = logging.getLogger("clipkit")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is SLURM's usual warning that time runs out. Lightning would save where it finds itself, in the middle of a
step and of a collective, to a file that every later run of that folder goes on from."""


class RunInterrupted(SIGTERMException):
    """A run that was asked to stop and did, its state saved.

    Left alone it ends the process with 128 and the signal's number.

    Args:
        signum: The signal that asked.
        checkpoint: What to go on from; None where it could not be written.
    """

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.checkpoint = checkpoint


class Interrupt(pl.Callback):
    """Saves ``interrupted.ckpt`` at the step boundary after a signal, then ends the run with :class:`RunInterrupted`.

    A second signal does not wait. Across ranks any rank's signal stops all of them at the same step.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._step = -1
        self._before: dict[int, Any] = {}
        self._hosts: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, after Lightning has set its own handlers."""
        self._asked, self._step, self._hosts = None, trainer.global_step, None
        if trainer.received_sigterm:  # before training, when Lightning listened: it would stop this rank alone
            self._asked, trainer._signal_connector.received_sigterm = signal.SIGTERM, False
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self._before[signum] = signal.signal(signum, self._ask)
        if world_size() > 1:
            # Lightning asks before every batch whether rank 0 has got a SIGTERM, and waits for the device to hear it.
            # From here on it gets none, and ranks agree from host to host.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = _nothing
            timeout = getattr(trainer.strategy, "_timeout", None)
            self._hosts = dist.new_group(backend="gloo", timeout=timeout)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here where asked to, if an optimiser step has just been made."""
        if trainer.global_step == self._step:
            return  # in the middle of accumulating gradients: they would be lost
        self._step = trainer.global_step
        if self._any_asked():
            folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
            path = Path(folder) / "interrupted.ckpt"
            before = _written(path)
            trainer.save_checkpoint(path)
            saved = path if _written(path) != before else None  # a disk may be full
            raise RunInterrupted(self._asked or signal.SIGTERM, saved)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back; Lightning does not always tear down after an error."""
        self._give_back(trainer)

    def _give_back(self, trainer: pl.Trainer) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
        trainer.fit_loop.epoch_loop.__dict__.pop("_broadcast_sigterm_tensor", None)
        self._hosts = None

    def _any_asked(self) -> bool:
        """Whether any rank is asked to stop; the device is not waited for."""
        if self._hosts is None:
            return self._asked is not None
        asked = torch.tensor(self._asked is not None, dtype=torch.uint8, device="cpu")
        dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._hosts)
        return bool(asked)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            signal.signal(signum, signal.SIG_DFL)
            raise KeyboardInterrupt
        self._asked = signum
        log.warning("%s: stopping after this step; once more to stop at once.", signal.Signals(signum).name)


def _nothing() -> None:
    pass


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
