"""What the real command keeps of its checkpoints, and what it goes on from."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch

from clipkit.checkpoints import complete_checkpoints
from clipkit.cli.main import main

TINY = (Path(__file__).parents[0] / "tiny_model.yaml").read_text(encoding="utf-8")
YAML = (
    TINY
    + """data: {train: emoji/concepts, val: emoji/cells, caption: name, batch_size: 16, workers: 0}
trainer:
  max_epochs: 4
  limit_train_batches: 3
  limit_val_batches: 1
  accelerator: cpu
  logger: false
  default_root_dir: .
  enable_progress_bar: false
"""
)
SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"


def kept(folder: str = "checkpoints") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.ckpt"))


@pytest.fixture(autouse=True)
def experiment(own_folder, no_pictures):
    Path("tiny.yaml").write_text(YAML, encoding="utf-8")


def fit(*words: str) -> int:
    return main(["fit", "-c", "tiny.yaml", "--resume", "auto", *words])


def test_lightnings_default_leaves_the_newest_and_the_one_before(capsys):
    assert fit() == 0
    assert kept() == ["epoch=2-step=9.ckpt", "epoch=3-step=12.ckpt"]
    assert "checkpoint: checkpoints/epoch=3-step=12.ckpt" in capsys.readouterr().out
    newest = Path("checkpoints/epoch=3-step=12.ckpt")
    newest.write_bytes(newest.read_bytes()[:-20])
    assert fit("--trainer.max_epochs=5") == 0
    said = capsys.readouterr().err
    assert "going on from checkpoints/epoch=2-step=9.ckpt, step 9" in said
    whole = [one.step for one in complete_checkpoints(Path("checkpoints"))]
    assert whole[:2] == [15, 12]


def test_the_best_is_the_best_whatever_else_is_kept(capsys):
    """The one that was best before stays beside the best, and is not taken for it."""
    words = [f"--trainer.callbacks=[{{class_path: {SAVER}, monitor: train/loss, filename: '{{step}}'}}]"]
    assert fit(*words, "--trainer.max_epochs=8") == 0
    best = re.findall(r"^checkpoint: checkpoints/step=(\d+).ckpt  \(train/loss", capsys.readouterr().out, re.MULTILINE)
    steps = [one.step for one in complete_checkpoints(Path("checkpoints"))]
    assert len(kept()) == len(steps) == 2 and steps[0] > steps[1]
    assert [str(steps[0])] == best
    saved = torch.load(f"checkpoints/step={steps[0]}.ckpt", weights_only=True)["callbacks"]
    (state,) = (state for name, state in saved.items() if name.startswith("ModelCheckpoint"))
    assert [Path(path).name for path in state["best_k_models"]] == [f"step={steps[0]}.ckpt"]


def test_beside_save_last_and_a_name_that_is_written_over_no_more_is_kept():
    last = f"{{class_path: {SAVER}, monitor: step, mode: max, save_last: true, filename: '{{step}}'}}"
    assert fit(f"--trainer.callbacks=[{last}]") == 0
    # The newest two are `last` and the same step under its own name, so that `step=9` goes as Lightning wants.
    assert kept() == ["last.ckpt", "last.previous.ckpt", "step=12.ckpt"]


def test_a_newest_whose_weights_are_not_finite_is_passed_over_loudly(capsys):
    assert fit() == 0
    manifest = Path("checkpoints/manifest.json")
    newest = f'"epoch=3-step=12.ckpt"{manifest.read_text().split(chr(34) + "epoch=3-step=12.ckpt" + chr(34))[1]}'
    manifest.write_text(manifest.read_text().replace(newest, newest.replace('"finite": true', '"finite": false', 1)))
    capsys.readouterr()
    assert fit() == 0
    said = capsys.readouterr().err
    assert "warning: checkpoints/epoch=3-step=12.ckpt, step 12, is passed over: not all its weights are finite." in said
    assert "going on from checkpoints/epoch=2-step=9.ckpt, step 9" in said


def _fit_on_a_full_disk(most: int) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path("said.txt").open("a", buffering=1)  # noqa: SIM115  # closed by the end
    logging.getLogger().handlers[:] = [logging.StreamHandler()]  # pytest's are of the parent
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os._exit(fit("--trainer.max_epochs=6"))


def test_a_full_disk_stops_no_run_and_costs_no_checkpoint(own_folder):
    """The system refuses every file above half a checkpoint; the run trains to its end, and what was saved is there."""
    assert fit("--trainer.max_epochs=2") == 0
    before = {name: Path("checkpoints", name).read_bytes() for name in kept()}
    size = len(before["epoch=1-step=6.ckpt"])
    child = multiprocessing.get_context("fork").Process(target=_fit_on_a_full_disk, args=(size // 2,))
    child.start()
    child.join(120)
    said = Path("said.txt").read_text()
    assert child.exitcode == 0, said
    assert "going on from checkpoints/epoch=1-step=6.ckpt, step 6" in said
    for step in ("epoch=2-step=9", "epoch=3-step=12", "epoch=4-step=15", "epoch=5-step=18"):
        assert re.search(rf"{step}.ckpt was not saved \(.*File too large\); the run goes on", said)
    assert "checkpoint: epoch=5-step=18.ckpt could not be saved" in said
    assert {name: Path("checkpoints", name).read_bytes() for name in kept()} == before
    assert not list(Path("checkpoints").glob(".*"))
    assert fit("--trainer.max_epochs=3") == 0  # the disk has room again
    assert [one.step for one in complete_checkpoints(Path("checkpoints"))][:2] == [9, 6]
