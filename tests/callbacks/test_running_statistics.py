"""A run resumed within a step has batch norms, dropout and weights as if it had never stopped."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from clipkit.callbacks import RandomState, RunningStatistics, SamplePosition
from clipkit.callbacks.running_statistics import KEY

BATCHES, ACCUMULATED = 12, 3


class Numbers(Dataset):
    def __getitem__(self, index):
        return torch.randn(6, generator=torch.Generator().manual_seed(index))

    def __len__(self):
        return 4 * BATCHES


class Data(pl.LightningDataModule):
    """Goes on after what the optimiser has consumed, as clipkit's own does."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def advance(self, batches):
        self.batches = (self.batches + batches) % BATCHES

    def train_dataloader(self):
        return DataLoader(Numbers(), batch_sampler=Rest(self), generator=torch.Generator())

    def val_dataloader(self):
        return DataLoader(Numbers(), batch_size=8, generator=torch.Generator())

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state_dict):
        self.batches = state_dict["batches"]


class Rest:
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter([range(4 * i, 4 * i + 4) for i in range(self.data.batches, BATCHES)])

    def __len__(self):
        return BATCHES


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = self.net(batch).square().mean()
        self.losses.append((self.trainer.current_epoch, batch_idx, float(loss.detach())))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (0, self.batch):
            trainer.save_checkpoint(self.path)


def run(*callbacks, resume=None, kept=(RandomState, RunningStatistics)):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=ACCUMULATED, val_check_interval=4, **quiet,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        callbacks=[SamplePosition(), *(one() for one in kept), *callbacks], num_sanity_val_steps=0,
    )  # fmt: skip
    task = Task()
    trainer.fit(task, datamodule=Data(), ckpt_path=resume, weights_only=True if resume else None)
    return task, trainer


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("batch", range(2, 8))
def test_saved_after_any_batch(tmp_path, batch):
    whole, _ = run(SaveAt(batch, tmp_path / "a.ckpt"))
    resumed, _ = run(resume=tmp_path / "a.ckpt")
    begin = (batch + 1) // ACCUMULATED * ACCUMULATED
    assert resumed.losses == whole.losses[begin:]
    assert same(resumed, whole)
    assert (KEY in torch.load(tmp_path / "a.ckpt", weights_only=True)) == (begin != batch + 1)


@pytest.mark.parametrize("left_out", [RandomState, RunningStatistics])
def test_both_are_needed(tmp_path, left_out):
    kept = [one for one in (RandomState, RunningStatistics) if one is not left_out]
    whole, _ = run(SaveAt(4, tmp_path / "a.ckpt"), kept=kept)
    resumed, _ = run(resume=tmp_path / "a.ckpt", kept=kept)
    assert not same(resumed, whole)


def test_a_figure_of_validation_within_a_step_is_of_what_is_saved(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    whole, _ = run(saver)
    scores = {path: float(score) for path, score in saver.best_k_models.items()}
    assert len(scores) == 6
    for path, score in scores.items():
        step = torch.load(path, weights_only=True)["global_step"]
        task, trainer = Task(), pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        (figures,) = trainer.validate(task, datamodule=Data(), ckpt_path=path, weights_only=True, verbose=False)
        assert figures["val/loss"] == score
        resumed, _ = run(resume=path)
        assert resumed.losses == whole.losses[step * ACCUMULATED :]
        assert same(resumed, whole)
