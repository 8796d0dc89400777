"""A run's metrics as lines of JSON: what is written, what a killed run leaves, and how images are counted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from clipkit.tracking import History, read_history


def test_every_step_is_a_line_of_strict_json():
    history = History("below/metrics.jsonl", images_a_step=32)
    history.log_metrics({"val/loss": 3.0, "val/R@1": math.nan}, step=3)
    history.log_metrics({"val/loss": math.inf}, step=7)
    history.finalize("success")
    lines = Path("below/metrics.jsonl").read_text().split("\n")[1:]
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert records == [
        {"step": 3, "images": 128, "values": {"val/loss": 3.0, "val/R@1": None}},
        {"step": 7, "images": 256, "values": {"val/loss": None}},
        {"finished": True},
    ]
    told = read_history(Path("below/metrics.jsonl"))
    assert told.finished
    assert told.curves["val/loss"][128] == 3.0
    assert math.isnan(told.curves["val/loss"][256])


@pytest.mark.parametrize("status", ["failed", "finished by somebody"])
def test_another_end_is_none(status):
    history = History("metrics.jsonl", 1)
    history.log_metrics({"a": 1.0}, step=0)
    history.finalize(status)
    assert not read_history(Path("metrics.jsonl")).finished


def test_a_file_that_is_not_there_tells_nothing():
    assert read_history(Path("metrics.jsonl")) == ({}, False)


def test_a_killed_run_that_goes_on_tells_the_later_value_and_loses_none():
    History("metrics.jsonl", 10).log_metrics({"a": 1.0}, step=0)
    with Path("metrics.jsonl").open("a") as file:
        file.write('\n{"step": 1, "images": 20, "val')  # killed here
    again = History("metrics.jsonl", 10)
    again.log_metrics({"a": 3.0}, step=1)
    again.log_metrics({"a": 5.0}, step=0)
    assert read_history(Path("metrics.jsonl")).curves == {"a": {10: 5.0, 20: 3.0}}


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).sum()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/steps", float(self.trainer.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(12, 1), batch_size=2)  # 6 batches

    def val_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(2, 1), batch_size=2)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_images_are_those_that_the_optimiser_has_seen(accumulated):
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=History("metrics.jsonl", 2 * accumulated), log_every_n_steps=1,
        accumulate_grad_batches=accumulated, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Task())
    told = read_history(Path("metrics.jsonl"))
    assert told.finished
    assert told.curves["val/steps"] == {12 * epoch: 6.0 // accumulated * epoch for epoch in (1, 2, 3)}
    assert list(told.curves["train/loss"])[-1] == 36
    # where checkpoints lie without any logger
    assert [path.parent for path in Path.cwd().rglob("*.ckpt")] == [Path.cwd() / "checkpoints"]
