"""Where batches stand in their steps, against the steps that a trainer takes."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from clipkit.steps import begins_step, ends_step, is_logged, log_every


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum() * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(pl.Callback):
    """What is said of each batch, and whether the step counter says so too."""

    def __init__(self):
        self.said, self.true, self.step = [], [], 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.said.append([begins_step(trainer, batch_idx)])
        self.true.append([not self.true or self.true[-1][1]])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.said[-1].append(ends_step(trainer, batch_idx))
        self.true[-1].append(trainer.global_step > self.step)
        self.step = trainer.global_step


@pytest.mark.parametrize("batches", [1, 3])
def test_steps_begin_and_end_where_the_trainers_do(batches):
    watch = Watch()
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(max_epochs=2, accumulate_grad_batches=batches, accelerator="cpu", callbacks=[watch], **quiet)
    trainer.fit(Task(), DataLoader(torch.ones(5), batch_size=1))
    assert watch.said == watch.true
    assert trainer.global_step == {1: 10, 3: 4}[batches]


@pytest.mark.parametrize(("given", "expected"), [(0, 1), (1, 1), (50, 50)])
def test_log_steps(given, expected):
    trainer = pl.Trainer(log_every_n_steps=given, logger=False, accelerator="cpu")
    assert log_every(trainer) == expected
    assert [step for step in range(1, 101) if is_logged(trainer, step)] == list(range(expected, 101, expected))
