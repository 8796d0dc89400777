"""What Lightning and clipkit cost around a step, loading beside training, and the start of a run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipkit.benchmarking.rows import Row, from_seconds, in_turn
from clipkit.benchmarking.timing import interleaved, wait
from clipkit.layers import Component
from clipkit.objectives import Objective
from clipkit.tasks import ContrastiveTask
from clipkit.types import Embeddings, ImageTextBatch, ObjectiveOutput

__all__ = ["measure_loading", "measure_loops", "measure_start"]

Watched = Callable[[Path], tuple[Logger, list[pl.Callback]]]
LIBRARIES = "torch, lightning, timm, transformers, datasets, mlflow"
AHEAD = 4
"""Steps before the clock starts: what workers had made ready costs the first ones nothing."""
FIRST_STEP = """
import os, sys
import lightning.pytorch as pl
from clipkit.cli.main import main
class Stop(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step:
            os._exit(0)
fit = pl.Trainer.fit
def fit_one_step(self, *args, **given):
    self.callbacks.append(Stop())
    return fit(self, *args, **given)
pl.Trainer.fit = fit_one_step
sys.exit(main(sys.argv[1:]) or 1)
"""
"""Runs ``clipkit`` and ends it at its first optimiser step."""


class NoModel(Component):
    """One number in the place of a model, after a while if told so."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.weight = seconds, nn.Parameter(torch.zeros(1))

    def forward(self, batch: ImageTextBatch) -> Embeddings:
        """Embeddings that are all alike."""
        time.sleep(self.seconds)
        ones = self.weight.expand(len(batch.image), 2)
        return Embeddings(ones, ones, self.weight.exp())


class NoObjective(Objective):
    """The parameter itself in the place of a loss."""

    def forward(self, outputs: Any, batch: ImageTextBatch) -> ObjectiveOutput:
        """A scalar that costs nothing."""
        return ObjectiveOutput(outputs.image[0, 0].square(), {})


class BareTask(pl.LightningModule):
    """The least that Lightning trains: one loss, logged."""

    def __init__(self, model: NoModel) -> None:
        super().__init__()
        self.model, self.objective = model, NoObjective()

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """The loss."""
        loss = self.objective(self.model(batch), batch).loss
        self.log("train/loss", loss)
        return loss  # type: ignore[no-any-return]  # nn.Module calls are untyped

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The same as the task's."""
        return torch.optim.AdamW(self.parameters(), fused=True)


def measure_loops(
    watched: Watched, steps: int, rounds: int, rival: Callable[[float, int], float] | None = None
) -> list[Row]:
    """Time a step that does nothing and one that takes 100 ms, in clipkit, in bare Lightning and by hand.

    Args:
        watched: A folder to the logger and the callbacks of a run of the command line.
        steps: Of a run in which a step does nothing; one of 100 ms is taken a fortieth as often, which for 2,000 is up
            to the first step that is logged.
        rounds: Runs of each.
        rival: Another's loop: seconds that a step takes by itself, and how many, to the seconds that each took.

    Returns:
        Milliseconds a step: clipkit beside bare Lightning, and both beside a loop by hand; with a rival clipkit beside
        that too.
    """
    loops: dict[str, Callable[[float, int], float]] = {
        "a loop by hand": _by_hand,
        "Lightning": _with_lightning,
        "ours": partial(_with_clipkit, watched),
    }
    others = {} if rival is None else {"open_clip's loop": rival}
    loops |= others
    few, names = max(3, steps // 40), ["Lightning", "ours", *others]
    idle = interleaved({name: partial(loops[name], 0.0, steps) for name in names}, rounds)
    slow = interleaved({name: partial(loop, 0.1, few) for name, loop in loops.items()}, rounds)
    nothing = f"a step of nothing, {steps:,} of them"

    def row(what: str, taken: dict[str, list[float]], base: str, side: str = "ours") -> Row:
        return from_seconds(what, base, {"theirs": taken[base], "ours": taken[side]})

    return [
        row(nothing, idle, "Lightning"),
        row("a step of 100 ms", slow, "a loop by hand"),
        row("the same in bare Lightning", slow, "a loop by hand", "Lightning"),
        *(row(what, taken, name) for name in others for what, taken in ((nothing, idle), ("a step of 100 ms", slow))),
    ]


def measure_loading(name: str, task: Any, data: Any, trainer: pl.Trainer, rounds: int, steps: int) -> Row:
    """Time steps on batches from the data module's loader beside steps on batches that are there.

    Args:
        name: Of what trains.
        task: What trains.
        data: Its data module, whose ``workers`` it runs with.
        trainer: Its trainer, whose device and precision it runs with.
        rounds: How often so many steps are timed.
        steps: Steps of a round.
    """
    data.inputs, data.trainer = task.model.inputs, trainer
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    loader = iter(itertools.chain.from_iterable(data.train_dataloader() for _ in itertools.count()))
    kept = [next(loader).to(device) for _ in range(4)]
    converted: Any = precision.convert_module(task.to(device))
    plain = _step(converted, precision.forward_context)

    def step(batch: ImageTextBatch) -> None:
        plain(batch.to(device))

    def run(batches: Any) -> float:
        for batch in itertools.islice(batches, AHEAD):
            step(batch)
        wait(device)
        start = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            step(batch)
        wait(device)
        return (time.perf_counter() - start) / steps

    sides: dict[str, Callable[[], float]] = {"theirs": lambda: run(itertools.cycle(kept)), "ours": lambda: run(loader)}
    what = f"a step of {name}, {trainer.precision}, on loaded batches"
    return from_seconds(what, "on batches in memory", interleaved(sides, rounds))


def measure_start(words: Sequence[str], rounds: int) -> Row:
    """Time the command from its start to its first optimiser step beside importing the libraries it stands on.

    Args:
        words: What follows ``clipkit``.
        rounds: How often.
    """
    with tempfile.TemporaryDirectory() as folder:
        theirs = partial(_run, ["-c", f"import {LIBRARIES}"], folder)
        ours = partial(_run, ["-c", FIRST_STEP, *words], folder)
        return in_turn("first optimiser step of " + " ".join(words), "its imports", theirs, ours, rounds)


def _run(words: list[str], folder: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"it ended with {done.returncode}: {done.stderr[-2000:]}")


def _batches(steps: int) -> DataLoader[Any]:
    ids = torch.arange(2)
    batch = ImageTextBatch(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), ids[:, None], ids[:, None] > -1, ids, ids, {})
    rows: Any = [batch] * steps  # a list is a map-style data set
    return DataLoader(rows, batch_size=None)


def _fit(task: pl.LightningModule, steps: int, logger: Logger, callbacks: list[pl.Callback]) -> float:
    """Seconds a step between the first and the last."""
    clock = _Clock()
    quiet: dict[str, Any] = dict.fromkeys(["enable_checkpointing", "enable_model_summary"], False)
    quiet["enable_progress_bar"] = any(isinstance(one, ProgressBar) for one in callbacks)
    trainer = pl.Trainer(max_epochs=1, logger=logger, callbacks=[*callbacks, clock], **quiet)
    trainer.fit(task, _batches(steps + 1))
    return clock.seconds / steps


class _Clock(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def _with_lightning(seconds: float, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _fit(BareTask(NoModel(seconds)), steps, CSVLogger(folder), [])


def _with_clipkit(watched: Watched, seconds: float, steps: int) -> float:
    task = ContrastiveTask(NoModel(seconds), NoObjective(), warmup=1)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        logger, callbacks = watched(Path(folder))
        return _fit(task, steps, logger, callbacks)


def _by_hand(seconds: float, steps: int) -> float:
    step = _step(ContrastiveTask(NoModel(seconds), NoObjective(), warmup=1))
    batches = iter(_batches(steps + 1))
    step(next(batches))
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return (time.perf_counter() - start) / steps


def _step(
    task: ContrastiveTask, context: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[ImageTextBatch], None]:
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-5, fused=True)

    def run(batch: ImageTextBatch) -> None:
        with context():
            loss = task.objective(task.model(batch), batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
