"""Between log steps nothing waits for the device: nobody asks for the value of a tensor."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.callbacks import Health
from clipkit.cli.config import load_experiment
from clipkit.cli.session import default_callbacks
from clipkit.tracking import MLflowLogger

EVERY, STEPS = 4, 12
YAML = (
    (Path(__file__).parents[1] / "tiny_model.yaml").read_text(encoding="utf-8")
    + f"""
data: {{train: emoji/concepts, batch_size: 8, workers: 0}}
trainer:
  max_epochs: 1
  limit_train_batches: {STEPS}
  log_every_n_steps: {EVERY}
  enable_progress_bar: false
  gradient_clip_val: 1
"""
)
WAITS = {  # what has to know values, or how many there are
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


BY_MASK = {  # what has to count first where it is told the places by a mask
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
TO_HOST = ("cpu", "to", "tolist", "numpy", "__array__")  # which make no operation where a tensor is on the host already
MAY_ASK = {
    f"health.py:{Health._count_skips.__name__}",  # at each step, where it costs nothing: on a CPU
    "dataloader.py:__next__",  # what makes the batches is on the host
    "strategy.py:batch_to_device",
}


class Waits(TorchDispatchMode):
    """Who asked, by batch."""

    def __init__(self, trainer):
        super().__init__()
        self.found, self.trainer = {}, trainer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITS or (func in BY_MASK and any(one is not None and one.dtype == torch.bool for one in args[1])):
            self.note(str(func))
        return func(*args, **(kwargs or {}))

    def note(self, asked):
        callers, frame = [asked], sys._getframe()
        while frame is not None:
            callers.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
            frame = frame.f_back
        if not MAY_ASK.intersection(callers):
            batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            self.found.setdefault(batch, []).append(callers)

    def watch(self, monkeypatch):
        """See the methods that are no operations, too."""
        for name in TO_HOST:
            method = getattr(torch.Tensor, name)

            def noted(tensor, *args, name=name, method=method, **kwargs):
                if name != "to" or any(isinstance(one, str) and one == "cpu" for one in (*args, *kwargs.values())):
                    self.note(name)
                return method(tensor, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, noted)


@pytest.fixture
def fitted(own_folder):
    """``fitted(accelerator, words)``: task, data and trainer with all that the command line adds."""

    def make(accelerator, words=()):
        Path("tiny.yaml").write_text(YAML, encoding="utf-8")
        experiment = load_experiment(["tiny.yaml"], [f"--trainer.accelerator={accelerator}", *words])
        return experiment.build(default_callbacks(experiment), partial(MLflowLogger, "sqlite:///mlflow.db"))

    return make


QUIET = [batch for batch in range(1, STEPS) if batch % EVERY]
SIGMOID = [
    "--model.objective={class_path: clipkit.objectives.Sigmoid, tile: 3}",
    "--model.model.head.init_logit_bias=-10",
    "--trainer.enable_progress_bar=true",
    "--trainer.callbacks=[{class_path: clipkit.callbacks.TrainingProgress, seconds: 1000}]",  # of a CPU it reads each
]
CASES = {"plain": [], "strips": ["--model.objective.tile=3"], "sigmoid, line of progress": SIGMOID}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_nothing_waits_between_log_steps(fitted, monkeypatch, words):
    task, data, trainer = fitted("cpu", words)
    with Waits(trainer) as waits, monkeypatch.context() as patched:
        waits.watch(patched)
        trainer.fit(task, datamodule=data)
    assert {batch: waits.found[batch] for batch in QUIET if batch in waits.found} == {}
    assert all(waits.found[batch] for batch in range(EVERY, STEPS, EVERY))  # so it does see who asks


ASKS = [
    float,
    bool,
    torch.nonzero,
    lambda loss: loss.cpu(),
    lambda loss: loss.to("cpu"),
    lambda loss: loss.tolist(),
    np.asarray,
    torch.unique,
    lambda loss: torch.masked_select(loss, loss > 0),
    lambda loss: loss.numpy(),
    lambda loss: loss.view(1)[(loss > 0).view(1)],
    lambda loss: loss.clone().view(1).__setitem__((loss > 0).view(1), loss),
]


def test_who_asks_is_seen(fitted, monkeypatch):
    """One way a batch."""

    class Asks(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            ASKS[batch_idx](outputs["loss"].detach())

    task, data, trainer = fitted("cpu", [f"--trainer.limit_train_batches={len(ASKS)}"])
    trainer.callbacks.append(Asks())
    with Waits(trainer) as waits, monkeypatch.context() as patched:
        waits.watch(patched)
        trainer.fit(task, datamodule=data)
    for batch in range(1, len(ASKS) + 1):
        assert any("test_syncs.py:on_train_batch_end" in callers for callers in waits.found[batch]), batch


class Forbid(pl.Callback):
    """Has CUDA raise where the host waits within a step that is not logged."""

    def on_train_batch_start(self, trainer, *_):
        torch.cuda.set_sync_debug_mode("error" if (trainer.global_step + 1) % EVERY else "default")

    def on_train_batch_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_cuda_sees_no_wait_between_log_steps(fitted, words):
    task, data, trainer = fitted("gpu", words)
    trainer.callbacks.append(Forbid())
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == STEPS
