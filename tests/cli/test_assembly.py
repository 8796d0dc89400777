"""Building: the order, what is added, and a constructor's refusal by key and line."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichModelSummary
from lightning.pytorch.loggers import CSVLogger

from clipkit.cli.config import load_experiment
from clipkit.cli.explain import ConfigError


@pytest.fixture
def build(stand_ins):
    def build(*overrides, **kwargs):
        return load_experiment([str(stand_ins)], overrides).build(**kwargs)

    return build


@pytest.fixture
def order():
    def order():
        import stand_ins

        return stand_ins.BUILT

    return order


def test_what_an_experiment_is_made_of(build, order):
    task, data, trainer = build("--model.parts={a: {class_path: stand_ins.Other}}", "--model.net.kind=torch.nn.ReLU")
    assert order() == ["Data", "Net", "Head", "Task"] or order() == ["Data", "Net", "Task", "Head"]
    assert (task.lr, task.note, task.betas, task.net.width) == (0.001, "batch 16", (0.9, 0.99), 4)
    assert task.head.sizes == (2, 3, 8)
    assert task.net.kind is torch.nn.ReLU
    assert list(task.parts) == ["a"]
    assert data.batch_size == 16
    assert isinstance(trainer, pl.Trainer)
    assert trainer.max_epochs == 1
    assert trainer.logger is None
    assert any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)


def test_a_task_can_save_its_hyperparameters_without_its_modules(build):
    task = build().task
    assert task.hparams["net"]["class_path"] == "stand_ins.Net"
    assert task.hparams["lr"] == 0.001


def test_the_seed_is_set_before_anything_is_made(build):
    build("--seed_everything=5")
    first = torch.rand(1)
    build("--seed_everything=5")
    assert torch.rand(1) == first


def test_extra_callbacks_are_added_but_not_twice(build):
    own = EarlyStopping(monitor="other")
    trainer = build(extra_callbacks=[own, RichModelSummary()]).trainer
    stops = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    assert [stop.monitor for stop in stops] == ["loss"]
    assert any(isinstance(callback, RichModelSummary) for callback in trainer.callbacks)


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["--trainer.logger=null"], CSVLogger),
        (["--trainer.logger=true"], CSVLogger),
        (["--trainer.logger=false"], None),
    ],
)
def test_the_default_logger_is_for_those_who_name_none(build, own_folder, overrides, kind):
    logger = build(*overrides, default_logger=lambda: CSVLogger(own_folder, name="default")).trainer.logger
    assert (logger is None) if kind is None else (logger.name == "default")


def test_a_default_logger_of_none_is_none(build):
    assert build("--trainer.logger=null", default_logger=lambda: None).trainer.loggers == []


def test_a_logger_that_is_named_stays(build, own_folder):
    def never():
        raise AssertionError

    logger = "--trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, save_dir: x, name: mine}"
    assert build(logger, default_logger=never).trainer.logger.name == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.train=nowhere"], "command line: data.train: there is nothing at 'nowhere'."),
        (["--model.net.width=-1"], "command line: model.net.width: -1 is negative."),
        (
            ["--model.net.width=0"],
            "command line: model.net.width: no width: nothing fits into it (stand_ins.py, line 2",
        ),
        (["--trainer.accelerator=gpux"], "command line: trainer.accelerator: You selected an invalid accelerator name"),
        (["--trainer.callbacks.0.mode=x"], "command line: trainer.callbacks.0.mode: `mode` can be "),
        (
            ["--model.parts={a: {class_path: stand_ins.Net, width: 1}, b: {class_path: stand_ins.Net, width: -2}}"],
            "command line: model.parts.b.width: -2 is negative.",
        ),
        (
            ["--model.parts={a: stand_ins.Other}", "--model.net.width=-1"],
            "command line: model.net.width: -1 is negative.",
        ),
    ],
)
def test_refusals_have_their_key_and_place(build, overrides, message):
    with pytest.raises(ConfigError) as caught:
        build(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_model_is_made_last(build, order):
    with pytest.raises(ConfigError):
        build("--data.train=nowhere")
    with pytest.raises(ConfigError):
        build("--trainer.accelerator=gpux")
    assert order() == ["Data", "Data"]


def test_a_refusal_names_the_line_of_the_file(stand_ins):
    stand_ins.write_text(stand_ins.read_text().replace("width: 4", "width: -4"))
    with pytest.raises(ConfigError, match=r"^base.yaml, line 4: model.net.width: -4 is negative\.$"):
        load_experiment(["base.yaml"]).build()
