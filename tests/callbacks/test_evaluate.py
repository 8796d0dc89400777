"""Tasks in training: when they run, on which weights, and that checkpoints can choose by them."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from clipkit.callbacks import EvaluateTasks
from clipkit.types import ArgumentError

STEPS = 4  # an epoch


class Task(pl.LightningModule):
    """One weight that follows a course, one unit of it a step."""

    def __init__(self, course=lambda step: float(step)):
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        self.course = course
        nn.init.constant_(self.model.weight, course(0))

    def training_step(self, batch, batch_idx):
        target = self.course(self.global_step + 1)
        return (target - self.model.weight.detach()).neg().mul(self.model.weight).sum()  # SGD of rate 1 lands on target

    def validation_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Probe:
    """An evaluator that answers with the weight."""

    def __init__(self):
        self.seen = []
        self.artifacts = {}

    def __call__(self, model):
        assert isinstance(model, nn.Linear)
        self.seen.append(model.weight.item())
        self.artifacts = {"call": len(self.seen)}
        return {"acc1": self.seen[-1], "acc5": -self.seen[-1]}


def evaluate_tasks(**arguments):
    callback = EvaluateTasks(["emoji/cells"], **arguments)
    callback.evaluators = {"emoji/cells": Probe()}
    return callback


def fit(tmp_path, callbacks, task=None, val="none", epochs=3, **options):
    loader = DataLoader(torch.zeros(STEPS, 1))
    validation = {"none": {}, "empty": {"val_dataloaders": []}, "some": {"val_dataloaders": loader}}[val]
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        logger=False,
        max_epochs=epochs,
        **options,
    )
    task = task or Task()
    trainer.fit(task, loader, **validation)
    return trainer, task


def weight_in(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]["model.weight"].item()


@pytest.mark.parametrize("val", ["none", "empty", "some"])
def test_figures_are_those_of_the_epochs_end(tmp_path, val):
    callback = evaluate_tasks()
    trainer, _ = fit(tmp_path, [callback], val=val)
    assert callback.evaluators["emoji/cells"].seen == [4, 8, 12]  # neither in the sanity check nor twice an epoch
    assert trainer.callback_metrics["emoji/cells/acc1"] == 12
    assert trainer.callback_metrics["emoji/cells/acc5"] == -12
    assert callback.results == {"emoji/cells": {"acc1": 12, "acc5": -12}}
    assert callback.artifacts == {"emoji/cells": {"call": 3}}


@pytest.mark.parametrize("checkpoint_first", [True, False])
@pytest.mark.parametrize(
    ("val", "options"),
    [
        ("none", {}),
        ("empty", {}),
        ("some", {}),
        ("some", {"check_val_every_n_epoch": 2}),
        ("some", {"val_check_interval": 2}),
        ("some", {"limit_val_batches": 0}),
    ],
)
def test_checkpoints_choose_by_figures_of_the_same_weights(tmp_path, checkpoint_first, val, options):
    task = Task(course=lambda step: -float((step - 9) ** 2))  # best after epoch 2 of 4
    best = ModelCheckpoint(tmp_path / "saved", monitor="emoji/cells/acc1", mode="max", filename="best")
    callbacks = [best, evaluate_tasks()] if checkpoint_first else [evaluate_tasks(), best]
    fit(tmp_path, callbacks, task, val, epochs=4, **options)
    assert best.best_model_score == weight_in(best.best_model_path)
    assert best.best_model_score == -1


def test_early_stopping_sees_the_figure_of_its_epoch(tmp_path):
    stop = EarlyStopping("emoji/cells/acc1", mode="max", patience=1, stopping_threshold=7)
    trainer, _ = fit(tmp_path, [stop, evaluate_tasks()], epochs=9)
    assert trainer.current_epoch == 2  # 4, then 8


@pytest.mark.parametrize("val", ["none", "some"])
def test_every_n_epochs_and_the_last(tmp_path, val):
    callback = evaluate_tasks(every_n_epochs=2)
    best = ModelCheckpoint(tmp_path / "saved", monitor="emoji/cells/acc1", mode="max", every_n_epochs=2)
    fit(tmp_path, [callback, best], val=val, epochs=5)
    assert callback.evaluators["emoji/cells"].seen == [8, 16, 20]
    assert best.best_model_score == 16


def test_the_last_step_counts_as_the_last_epoch(tmp_path):
    callback = evaluate_tasks(every_n_epochs=5)
    fit(tmp_path, [callback], epochs=-1, max_steps=6)
    assert callback.evaluators["emoji/cells"].seen == [6]


@pytest.mark.parametrize("val", ["none", "empty", "some"])
@pytest.mark.parametrize("average_first", [True, False])
def test_averaged_weights_are_scored_and_training_goes_on_as_if_not(tmp_path, val, average_first):
    average = EMAWeightAveraging(decay=0.5)
    best = ModelCheckpoint(tmp_path / "saved", monitor="emoji/cells/acc1", mode="max", save_top_k=-1)
    callback = evaluate_tasks()
    trainer, _ = fit(tmp_path, [average, callback, best] if average_first else [callback, best, average], val=val)
    expected, ema = [], 1.0  # the first step copies
    for step in range(2, 3 * STEPS + 1):
        ema = 0.5 * ema + 0.5 * step
        if step % STEPS == 0:
            expected.append(ema)
    assert callback.evaluators["emoji/cells"].seen == pytest.approx(expected)
    assert trainer.global_step == 12
    for path, score in best.best_k_models.items():
        assert weight_in(path) == score.item()
        current = torch.load(path, weights_only=True)["current_model_state"]["model.weight"].item()
        assert current % STEPS == 0  # the course was not disturbed


def test_weights_come_back_after_an_error(tmp_path):
    average, callback, task = EMAWeightAveraging(decay=0.5), evaluate_tasks(), Task()

    def fail(model):
        assert model.weight.item() != 4
        raise RuntimeError("out of luck")

    callback.evaluators = {"emoji/cells": fail}
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, [average, callback], task)
    assert task.model.weight.item() == 4


def test_validate_scores_too(tmp_path):
    callback = evaluate_tasks()
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False)
    (figures,) = trainer.validate(Task(), DataLoader(torch.zeros(2, 1)), verbose=False)
    assert figures == {"emoji/cells/acc1": 0.0, "emoji/cells/acc5": 0.0}


def test_mistakes_are_named_before_there_is_a_model():
    with pytest.raises(ArgumentError, match="did you mean 'emoji/cells'") as caught:
        EvaluateTasks(["emoji/cell"])
    assert caught.value.argument == "tasks"
    with pytest.raises(ArgumentError, match="every_n_epochs: 0"):
        EvaluateTasks(["emoji/cells"], every_n_epochs=0)
    with pytest.raises(ArgumentError, match="batch_size: 0"):
        EvaluateTasks(["emoji/cells"], batch_size=0)
