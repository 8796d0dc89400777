from __future__ import annotations

import pytest
from lightning.pytorch import Trainer

from clipkit.cli.main import main


@pytest.mark.parametrize("checkpoint", [None, "some.ckpt"])
def test_an_experiment_is_validated(stand_ins, own_folder, monkeypatch, checkpoint):
    calls = []
    monkeypatch.setattr(Trainer, "validate", lambda self, task, **kwargs: calls.append((type(task).__name__, kwargs)))
    (own_folder / "some.ckpt").touch()
    words = ["--checkpoint", checkpoint] if checkpoint else []
    assert main(["validate", "-c", "base.yaml", *words, "--data.batch_size=2"]) == 0
    ((task, kwargs),) = calls
    assert task == "Task"
    assert kwargs["datamodule"].batch_size == 2
    assert kwargs["ckpt_path"] == checkpoint
