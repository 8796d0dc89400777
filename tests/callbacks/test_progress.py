"""What the progress line says where the output is a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

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


def test_speaks_seldom(fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    fit([TrainingProgress(seconds=1000)], trainer={"enable_progress_bar": True})
    assert len(capsys.readouterr().err.splitlines()) == 1  # the last step is always told


def test_says_nothing_when_disabled(fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(seconds=0)
    progress.disable()
    fit([progress], trainer={"enable_progress_bar": True})
    assert "step" not in capsys.readouterr().err
