"""Between log steps nothing waits for the device: nobody asks for the value of a tensor."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
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


class Waits(TorchDispatchMode):
    """Who asked, by batch. Health may: it looks at each step's gradients where looking costs nothing, on a CPU."""

    def __init__(self, trainer):
        super().__init__()
        self.found, self.trainer = {}, trainer

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITS:
            batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            callers, frame = [], sys._getframe()
            while frame is not None:
                callers.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
                frame = frame.f_back
            if f"health.py:{Health._count_skips.__name__}" not in callers:
                self.found.setdefault(batch, []).append(callers)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fitted(own_folder):
    """``fitted(accelerator)``: task, data and trainer with all that the command line adds."""

    def make(accelerator):
        Path("tiny.yaml").write_text(YAML, encoding="utf-8")
        experiment = load_experiment(["tiny.yaml"], [f"--trainer.accelerator={accelerator}"])
        return experiment.build(default_callbacks(experiment), partial(MLflowLogger, "sqlite:///mlflow.db"))

    return make


def test_nothing_waits_between_log_steps(fitted):
    task, data, trainer = fitted("cpu")
    with Waits(trainer) as waits:
        trainer.fit(task, datamodule=data)
    quiet = [batch for batch in range(1, STEPS) if batch % EVERY]
    assert {batch: waits.found[batch] for batch in quiet if batch in waits.found} == {}
    assert all(waits.found[batch] for batch in range(EVERY, STEPS, EVERY))  # so it does see who asks


class Forbid(pl.Callback):
    """Has CUDA raise where the host waits within a step that is not logged."""

    def on_train_batch_start(self, trainer, *_):
        torch.cuda.set_sync_debug_mode("error" if (trainer.global_step + 1) % EVERY else "default")

    def on_train_batch_end(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_sees_no_wait_between_log_steps(fitted):
    task, data, trainer = fitted("gpu")
    trainer.callbacks.append(Forbid())
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == STEPS
