"""A signal stops a run at the next whole step, saved."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from clipkit.callbacks import Interrupt, RunInterrupted
from clipkit.checkpoints import DurableCheckpointIO

Fit = Callable[..., Any]


class Ended(pl.Callback):
    """At which step, and whether Lightning has its own back by then."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.step = trainer.global_step
        self.patched = "_broadcast_sigterm_tensor" in vars(trainer.fit_loop.epoch_loop)


class Told(pl.Callback):
    """Lightning's handler got a SIGTERM before training began."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer._signal_connector.received_sigterm = True


class Send(pl.Callback):
    """Sends this process a signal before a batch."""

    def __init__(self, signum: int, batch: int) -> None:
        self.signum, self.batch = signum, batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_saves_after_the_step_and_says_where(fit: Fit, signum: int) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(RunInterrupted) as stopped:
        fit([Send(signum, 3), Interrupt()], trainer={"default_root_dir": str(Path.cwd())})
    assert stopped.value.signum == signum
    saved = torch.load(stopped.value.checkpoint, weights_only=True)
    assert saved["global_step"] == 4
    assert signal.getsignal(signum) == before


def test_says_where_nothing_could_be_written(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> RunInterrupted:
        trainer = {"plugins": [DurableCheckpointIO()], "default_root_dir": str(Path.cwd())}
        with pytest.raises(RunInterrupted) as stopped:
            fit([Send(signal.SIGTERM, 3), Interrupt()], trainer=trainer)
        return stopped.value

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    saved = interrupted().checkpoint
    before = saved.read_bytes()
    monkeypatch.setattr("clipkit.checkpoints.files._written", full)
    assert interrupted().checkpoint is None  # though one of an earlier interruption is there
    assert saved.read_bytes() == before


def test_any_rank_stops_all_at_the_same_step(fit: Fit, on_ranks: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own question, for whose answer the device is waited for, is not asked."""

    def fail(*_: Any) -> None:
        raise AssertionError("Lightning asked")

    monkeypatch.setattr(
        "lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop._broadcast_sigterm_tensor", fail
    )
    folder = str(Path.cwd())

    def work(rank: int, world: int) -> tuple[int, int]:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        ended, interrupt = Ended(), Interrupt()
        callbacks = [interrupt, ended] if rank == 0 else [Send(signal.SIGUSR1, 3), interrupt, ended]
        trainer = {"devices": world, "strategy": "ddp", "use_distributed_sampler": False, "default_root_dir": folder}
        with pytest.raises(RunInterrupted) as stopped:
            fit(callbacks, trainer=trainer)
        assert (ended.patched, interrupt._hosts, interrupt._before) == (False, None, {})
        return ended.step, stopped.value.signum

    # The one that got it says so; the other was asked by nobody.
    assert on_ranks(work) == [(4, signal.SIGTERM), (4, signal.SIGUSR1)]


def test_a_sigterm_before_training_stops_all_after_a_step(fit: Fit, on_ranks: Fit) -> None:
    folder = str(Path.cwd())

    def work(rank: int, world: int) -> int:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        ended = Ended()
        trainer = {"devices": world, "strategy": "ddp", "use_distributed_sampler": False, "default_root_dir": folder}
        with pytest.raises(RunInterrupted):
            fit([*([Told()] if rank else []), Interrupt(), ended], trainer=trainer)
        return ended.step

    assert on_ranks(work) == [1, 1]


def test_waits_for_the_end_of_accumulation(fit: Fit) -> None:
    trainer = {"accumulate_grad_batches": 4, "default_root_dir": str(Path.cwd())}
    with pytest.raises(RunInterrupted) as stopped:
        fit([Send(signal.SIGTERM, 4), Interrupt()], trainer=trainer)
    assert torch.load(stopped.value.checkpoint, weights_only=True)["global_step"] == 2


def test_a_second_signal_does_not_wait(fit: Fit) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit([Send(signal.SIGINT, 1), Send(signal.SIGINT, 1), Interrupt()])
