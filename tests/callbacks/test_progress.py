"""What the progress line says where the output is a file."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clipkit.callbacks import TrainingProgress


def test_plain_lines(fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    fit([TrainingProgress(seconds=0)], trainer={"enable_progress_bar": True, "max_epochs": 2})
    lines = capsys.readouterr().err.splitlines()
    line = r"epoch 1/2  step 1/16  loss \d\.\d{3}  scale 14\.\d  [\d,]+ images/s  \d:\d\d left"
    assert re.fullmatch(line, lines[0]), lines[0]
    assert lines[-1].startswith("epoch 2/2  step 16/16")
    assert len(lines) == 16


def test_a_bar_in_a_terminal(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    fit([TrainingProgress()], trainer={"enable_progress_bar": True, "max_epochs": 2})
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err).split("\r")
    last = lines[-1].splitlines()[-1]
    assert re.fullmatch(r"epoch 2/2 ━+ 16/16 loss \d\.\d{3}  scale 14\.\d  [\d,]+ images/s \d\d:\d\d *", last), last
    assert len(last) == 120


class Elsewhere:
    """A loss on another device: to know it is to wait."""

    device = torch.device("cuda")

    def __init__(self, read: list[int], step: int) -> None:
        self.read, self.step = read, step

    def __float__(self) -> float:
        self.read.append(self.step)
        return float(self.step)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_device_is_waited_for_at_the_steps_that_are_logged(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("time.monotonic", itertools.count().__next__)  # so that each step is due
    read: list[int] = []
    progress, batch = TrainingProgress(seconds=0), SimpleNamespace(image=range(8))
    trainer = SimpleNamespace(
        global_step=0, estimated_stepping_batches=11, log_every_n_steps=4, world_size=1, max_epochs=1, current_epoch=0
    )
    progress.on_train_start(trainer, None)
    for number in range(2, 24):  # two batches a step
        trainer.global_step = number // 2
        progress.on_train_batch_end(trainer, None, {"loss": Elsewhere(read, trainer.global_step)}, batch, 0)
    progress.on_train_end(trainer, None)
    assert read == [4, 8, 11]
    if not terminal:
        said = [line.split("loss ")[-1].split()[0] for line in capsys.readouterr().err.splitlines()]
        assert said == ["epoch"] * 6 + ["4.000"] * 8 + ["8.000"] * 6 + ["11.000"] * 2


def test_speaks_seldom(fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    fit([TrainingProgress(seconds=1000)], trainer={"enable_progress_bar": True})
    assert len(capsys.readouterr().err.splitlines()) == 1  # the last step is always told


def test_says_nothing_when_disabled(fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(seconds=0)
    progress.disable()
    fit([progress], trainer={"enable_progress_bar": True})
    assert "step" not in capsys.readouterr().err
