"""``clipkit fit`` from its first line to its last: results, checkpoint, MLflow, interruption and going on."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

import clipkit
from clipkit.cli.main import main
from clipkit.tasks import ContrastiveTask

TINY = (Path(__file__).parents[1] / "tiny_model.yaml").read_text(encoding="utf-8")
YAML = (
    TINY
    + """data: {train: emoji/concepts, val: emoji/cells, caption: name, batch_size: 32, workers: 0}
trainer:
  max_epochs: 1
  limit_train_batches: 4
  limit_val_batches: 2
  accelerator: cpu
  log_every_n_steps: 1
  callbacks:
    - {class_path: clipkit.callbacks.EvaluateTasks, tasks: [emoji/concepts]}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      monitor: emoji/concepts/acc5
      mode: max
    - {class_path: lightning.pytorch.callbacks.ModelCheckpoint, filename: last, save_on_train_epoch_end: true}
"""
)


def tracking() -> mlflow.MlflowClient:
    """The database of this test's own folder; MLflow keeps one connection a URI, so it has to be the whole path."""
    return mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")


@pytest.fixture
def tiny() -> str:
    """An experiment of four steps, in the folder the test runs in."""
    Path("tiny.yaml").write_text(YAML, encoding="utf-8")
    return "tiny.yaml"


@pytest.fixture
def cluster_of(tiny: str) -> Iterator[Any]:
    """Starts the real command as the leader of a process group and ends the group in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "clipkit", *words]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_run_says_what_it_did_and_where_to_see_it(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", tiny]) == 0
    out = capsys.readouterr().out
    assert "emoji/concepts" in out
    assert "image_to_text_R@1" in out
    (checkpoint,) = re.findall(r"^checkpoint: (\S+\.ckpt)  \(emoji/concepts/acc5", out, re.MULTILINE)
    assert clipkit.load(checkpoint).head.embed_dim == 16
    assert "mlflow server --backend-store-uri sqlite:///mlflow.db" in out
    (run_id,) = re.findall(r"this run: .*/runs/(\w+)", out)
    client = tracking()
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.lr"] == "0.001"
    assert len(client.get_metric_history(run_id, "train/loss")) == 4
    assert "emoji/concepts/acc5" in run.data.metrics
    assert {"val/image_to_text_R_at_1", "health/grad_norm_vision", "health/rank_text"} <= run.data.metrics.keys()
    pictures = {Path(file.path).suffix for file in client.list_artifacts(run_id, "pictures")}
    assert ".png" in pictures


NO_VAL = "--data.val=null"  # no pictures either, which take seconds
NAMED = "--trainer.logger={class_path: clipkit.tracking.MLflowLogger, tracking_uri: sqlite:///mlflow.db}"


def test_resume_goes_on_in_the_same_run(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", tiny, NO_VAL, NAMED]) == 0
    first = re.findall(r"this run: .*/runs/(\w+)", capsys.readouterr().out)
    (last,) = Path.cwd().rglob("last.ckpt")
    assert main(["fit", "-c", tiny, NO_VAL, NAMED, "--trainer.max_epochs=2", "--resume", str(last)]) == 0
    assert re.findall(r"this run: .*/runs/(\w+)", capsys.readouterr().out) == first
    client = tracking()
    steps = [metric.step for metric in client.get_metric_history(first[0], "train/loss")]
    assert steps == list(range(8))
    assert client.get_run(first[0]).info.status == "FINISHED"


def test_resume_auto(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Afresh where there is nothing, else the newest complete checkpoint of the same experiment, in its run."""
    assert main(["fit", "-c", tiny, NO_VAL, "--resume", "auto"]) == 0
    said = capsys.readouterr()
    assert "there is no complete checkpoint of tiny to go on from; it starts afresh" in said.err
    first = re.findall(r"this run: .*/runs/(\w+)", said.out)
    shutil.copy("tiny.yaml", "other.yaml")
    assert main(["fit", "-c", "other.yaml", NO_VAL, "--trainer.max_epochs=3"]) == 0
    (last,) = (path for path in Path("runs").rglob("last.ckpt") if torch.load(path, weights_only=True)["epoch"] == 0)
    last.write_bytes(last.read_bytes()[:-50])
    capsys.readouterr()
    assert main(["fit", "-c", tiny, NO_VAL, "--trainer.max_epochs=2", "--resume", "auto"]) == 0
    said = capsys.readouterr()
    assert re.search(r"going on from runs/\S+/epoch=0-step=4.ckpt, step 4", said.err)
    assert re.findall(r"this run: .*/runs/(\w+)", said.out) == first
    assert [metric.step for metric in tracking().get_metric_history(first[0], "train/loss")] == list(range(8))


def test_epochs_that_no_checkpoint_would_hold_are_told(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--trainer.limit_train_batches=1", "--trainer.logger=false", "--trainer.callbacks=null"]
    assert main(["fit", "-c", tiny, *few, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]) == 0
    assert "what the last 1 of 3 epochs learn is in no checkpoint" in capsys.readouterr().err
    best = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/loss, save_last: true}"
    assert main(["fit", "-c", tiny, *few[:2], f"--trainer.callbacks=[{best}]"]) == 0
    assert "a checkpoint is saved only when val/loss is better than before" in capsys.readouterr().err


def test_a_metric_that_nothing_logs_is_told(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        "--trainer.limit_train_batches=1",
        "--trainer.logger=false",
        "--trainer.default_root_dir=.",
        "--trainer.max_epochs=1",
    ]
    saver = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, monitor: val/los, save_last: true}"
    assert main(["fit", "-c", tiny, *few, f"--trainer.callbacks=[{saver}]"]) == 2
    told = "no checkpoint can be chosen by 'val/los', which is not logged"
    err = capsys.readouterr().err
    assert f"clipkit fit: trainer.callbacks: {told}; the nearest that is: 'val/loss'." in err
    assert "Traceback" not in err
    unvalidated = [*few, "--trainer.limit_val_batches=0", f"--trainer.callbacks=[{saver}]"]
    assert main(["fit", "-c", tiny, *unvalidated]) == 0
    assert f"note: {told}." in capsys.readouterr().out


def test_dry_run_tells_and_trains_nothing(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", tiny, "--dry-run", "--trainer.accumulate_grad_batches=2"]) == 0
    out = capsys.readouterr().out
    for said in ("TimmTower", "BagOfWordsTower", "(32, 3, 32, 32) uint8", "64 = 32 a device x 1 devices x 2", "3.466"):
        assert said in out, said
    assert "negatives come from 32" in out
    assert re.search(r"one step of 4 samples on cpu: loss \d\.\d+, then \d\.\d+", out)
    assert not Path("runs").exists()
    assert not Path("mlflow.db").exists()


def test_other_loggers_and_none(tiny: str) -> None:
    assert main(["fit", "-c", tiny, NO_VAL, "--trainer.logger=false", "--trainer.default_root_dir=."]) == 0
    assert not Path("mlflow.db").exists()
    csv = "--trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, save_dir: csv}"
    assert main(["fit", "-c", tiny, NO_VAL, csv]) == 0
    assert list(Path("csv").rglob("metrics.csv"))


def test_out_of_memory_names_what_to_change(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forward(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("clipkit.objectives.InfoNCE.forward", forward)
    assert main(["fit", "-c", tiny, "--trainer.logger=false", "--trainer.default_root_dir=."]) == 1
    err = capsys.readouterr().err
    assert "--data.batch_size=16" in err
    assert "Traceback" not in err


def test_non_finite_loss_stops_with_positions(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clipkit.types import ObjectiveOutput

    def forward(self: Any, outputs: Any, batch: Any) -> ObjectiveOutput:
        return ObjectiveOutput(outputs.image.sum() * float("nan"), {})

    monkeypatch.setattr("clipkit.objectives.InfoNCE.forward", forward)
    words = ["--trainer.logger=false", "--trainer.default_root_dir=.", "--trainer.limit_train_batches=6"]
    assert main(["fit", "-c", tiny, *words]) == 1
    err = capsys.readouterr().err
    assert re.search(r"stopped: the gradients of step \d are not finite .*96, 97, 98", err)


def test_stopped_on_a_full_disk_goes_on_from_what_was_saved_before(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = ContrastiveTask.training_step

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    def training_step(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    assert main(["fit", "-c", tiny, NO_VAL]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("clipkit.checkpoints.files._written", full)
        patch.setattr(ContrastiveTask, "training_step", training_step)
        assert main(["fit", "-c", tiny, NO_VAL, "--trainer.max_epochs=2", "--resume", "auto"]) == 143
    err = capsys.readouterr().err
    assert "stopped after a whole step but could not save it; the newest that was saved is taken" in err
    (line,) = re.findall(r"^  (clipkit fit .*)$", err, re.MULTILINE)
    assert line.endswith("--resume auto")
    assert main(shlex.split(line)[1:]) == 0
    assert "going on from" in capsys.readouterr().err


def has_arrived() -> bool:
    """Whether MLflow, which a run does not wait for, has heard of it."""
    try:
        with closing(sqlite3.connect("file:mlflow.db?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError:  # not there, or being made
        return False


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_and_continued(cluster_of: Any, signum: int, code: int) -> None:
    many = ["--trainer.max_epochs=500", "--trainer.limit_val_batches=0", "--data.workers=1", "--trainer.callbacks=null"]
    process = cluster_of("fit", "-c", "tiny.yaml", *many)
    deadline = time.monotonic() + 240
    while not (list(Path("runs").rglob("*.ckpt")) and has_arrived()) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signum)  # as a terminal and a scheduler do: the loader's workers get it too
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    (line,) = re.findall(r"^  (clipkit fit .*)$", err, re.MULTILINE)
    words = shlex.split(line)[1:]
    saved = torch.load(words[-1], weights_only=True)
    run = tracking().search_runs(["1"])[0]
    assert run.info.status == "KILLED"
    if signum == signal.SIGINT:  # going on is the same for both
        return
    done = saved["global_step"]
    epochs = saved["epoch"] + 1
    assert main([*words, f"--trainer.max_epochs={epochs}"]) == 0
    assert tracking().get_run(run.info.run_id).info.status == "FINISHED"
    (checkpoint, *_) = sorted(Path("runs").rglob("*.ckpt"), key=lambda path: -path.stat().st_mtime)
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= done
