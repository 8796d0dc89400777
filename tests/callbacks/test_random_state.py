"""A resumed run draws what it would have drawn."""

from __future__ import annotations

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clipkit.callbacks import RandomState


class Drawing(pl.LightningModule):
    """Draws from every generator at each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append((random.random(), random.gauss(0, 1), np.random.standard_normal(), float(torch.rand(()))))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def drawn(callbacks, resume=None, seed=1):
    pl.seed_everything(seed, verbose=False)
    task = Drawing()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, callbacks=callbacks, **quiet)
    # A loader with a generator of its own, as the data module's are: others draw from torch's at each epoch.
    loader = DataLoader(torch.zeros(8, 1), batch_size=2, generator=torch.Generator())
    trainer.fit(task, loader, ckpt_path=resume, weights_only=True if resume else None)
    return task.drawn


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_the_same_numbers_after_resuming(tmp_path, step):
    whole = drawn([RandomState(), SaveAt(step, tmp_path / "a.ckpt")])
    assert len(set(whole)) == 12
    assert drawn([RandomState()], tmp_path / "a.ckpt", seed=2) == whole[step:]
    assert drawn([], tmp_path / "a.ckpt", seed=2) != whole[step:]


def test_a_checkpoint_without_states_and_one_of_more_ranks(tmp_path):
    whole = drawn([SaveAt(3, tmp_path / "a.ckpt")])
    assert len(drawn([RandomState()], tmp_path / "a.ckpt", seed=2)) == len(whole) - 3
    drawn([RandomState(), SaveAt(3, tmp_path / "b.ckpt")])
    saved = torch.load(tmp_path / "b.ckpt", weights_only=True)
    torch.save({**saved, "random_state": saved["random_state"] * 2}, tmp_path / "b.ckpt")
    with pytest.warns(UserWarning, match="the random states of 2 ranks do not fit 1: they begin anew"):
        drawn([RandomState()], tmp_path / "b.ckpt", seed=2)
