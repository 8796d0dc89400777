"""``clipkit sweep``: what is trained and what is not again, failures, stops, the parent run; and once for real."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from clipkit.checkpoints import DurableCheckpointIO
from clipkit.cli import sweep_tracking
from clipkit.cli.explain import ConfigError
from clipkit.cli.main import main
from clipkit.cli.sweep_plan import read_sweep
from clipkit.cli.sweep_run import Trainings, claimed, last_line, stopping
from clipkit.tracking import History, journal

TEXT = """
base: base.yaml
metric: val/loss
seeds: [0, 1]
settings:
  slow: {model.lr: 0.25}
  fast: {model.lr: 0.5}
"""


@pytest.fixture
def sweep(stand_ins):
    Path("try.yaml").write_text(TEXT, encoding="utf-8")
    return "try.yaml"


class Trained:
    """Stands in for the runs' processes: writes what each is told to log, or fails; keeps what it was asked."""

    def __init__(self):
        self.asked, self.bad, self.stop_at = [], set(), None

    def train(self, trainings, run, logger, watch):
        self.asked.append((str(run), list(logger)))
        trainings.home(run).mkdir(parents=True, exist_ok=True)
        if str(run) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
            return 130
        if str(run) in self.bad:
            trainings.log(run).write_text("Traceback ...\nValueError: it went wrong\n\n")
            return 1
        history = History(trainings.home(run) / "metrics.jsonl", 16)
        for step in (1, 3):
            history.log_metrics({"val/loss": 1 / (1 + step) + run.seed / 100, "val/acc": 0.5}, step)
        history.finalize("success")
        return 0

    @property
    def runs(self):
        return [run for run, _ in self.asked]


@pytest.fixture
def trained(monkeypatch):
    trained = Trained()
    monkeypatch.setattr(Trainings, "train", lambda *args: trained.train(*args))
    return trained


ALL = ["slow, seed 0", "fast, seed 0", "slow, seed 1", "fast, seed 1"]


def test_every_run_is_trained_once_and_the_means_are_told(sweep, trained, capsys):
    assert main(["sweep", "-c", sweep]) == 0
    out = capsys.readouterr().out
    assert trained.runs == ALL
    assert "[1/4] slow, seed 0: 0.2500, in 0:00" in out
    assert re.search(r"fast .* 64 .* 2 of 2 .* 0\.2550 .* 0\.1915 to 0\.3185", out)
    with Path("sweeps/try/summary.csv").open(newline="") as file:
        assert [row["mean"] for row in csv.DictReader(file)] == ["0.255", "0.255"]
    assert Path("sweeps/try/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert main(["sweep", "-c", sweep]) == 0
    assert "[4/4] fast, seed 1: 0.2600, finished before" in capsys.readouterr().out
    assert trained.runs == ALL  # none again
    assert not Path("mlflow.db").exists()  # the base has `logger: false`


def test_a_further_seed_is_all_that_is_trained_later(sweep, trained):
    assert main(["sweep", "-c", sweep]) == 0
    Path(sweep).write_text(TEXT.replace("[0, 1]", "[0, 1, 2]"))
    assert main(["sweep", "-c", sweep]) == 0
    assert trained.runs == [*ALL, "slow, seed 2", "fast, seed 2"]


def test_a_run_that_fails_is_told_at_the_end_and_tried_again(sweep, trained, capsys):
    trained.bad = {"fast, seed 0"}
    assert main(["sweep", "-c", sweep]) == 1
    out = capsys.readouterr().out
    assert trained.runs == ALL
    assert "[2/4] fast, seed 0: failed" in out
    assert re.search(r"^failed: fast, seed 0 \(exit code 1; sweeps/try/fast-.*/output.log\): ValueError: it", out, re.M)
    assert "1 of 2" in out and "2 of 2" in out
    trained.bad = set()
    assert main(["sweep", "-c", sweep]) == 0
    assert trained.runs == [*ALL, "fast, seed 0"]


def test_where_all_fail_there_is_no_table(sweep, trained, capsys):
    trained.bad = set(ALL)
    assert main(["sweep", "-c", sweep]) == 1
    assert capsys.readouterr().out.count("failed: ") == 4
    assert not Path("sweeps/try/summary.csv").exists()


def test_stopped_it_reports_what_there_is_and_says_how_to_go_on(sweep, trained, capsys):
    trained.stop_at = "slow, seed 1"
    assert main(["sweep", "-c", sweep, "--trainer.max_epochs=3"]) == 130
    out, err = capsys.readouterr()
    assert trained.runs == ALL[:3]
    assert "slow, seed 1: stopped" in out
    assert "SIGINT: stopped; 2 of 4 runs have finished. To go on:" in err
    assert "clipkit sweep -c try.yaml --tracking-uri sqlite:///mlflow.db --trainer.max_epochs=3" in err
    assert Path("sweeps/try/summary.csv").exists()
    trained.stop_at = None
    assert main(["sweep", "-c", sweep, "--trainer.max_epochs=3"]) == 0
    assert trained.runs == [*ALL[:3], *ALL[2:]]


def test_a_metric_that_no_run_logs_is_told_after_the_first(sweep, trained, capsys):
    Path(sweep).write_text(TEXT.replace("val/loss", "val/los"))
    assert main(["sweep", "-c", sweep]) == 2
    err = capsys.readouterr().err
    assert "try.yaml: metric: slow, seed 0 has logged no val/los. Did you mean val/loss?" in err
    assert trained.runs == ALL[:1]
    Path(sweep).write_text(TEXT)
    assert main(["sweep", "-c", sweep]) == 0
    assert trained.runs == ALL


def test_a_mistake_in_the_last_setting_is_told_before_the_first_trains(sweep, trained, capsys):
    Path(sweep).write_text(TEXT.replace("fast: {model.lr", "fast: {model.lrate"))
    assert main(["sweep", "-c", sweep]) == 2
    assert "try.yaml, line 7: model.lrate: Task has no argument lrate." in capsys.readouterr().err
    assert trained.runs == []


def test_a_dry_run_lists_and_trains_nothing(sweep, trained, capsys):
    assert main(["sweep", "-c", sweep, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "2 settings x 2 seeds = 4 runs of base.yaml, compared by val/loss"
    assert "fast: --model.lr=0.5 --seed_everything=0" in out
    assert trained.runs == []
    assert not Path("sweeps").exists()


def test_runs_are_children_of_one_parent_over_restarts(sweep, trained, capsys):
    Path("base.yaml").write_text(Path("base.yaml").read_text().replace("logger: false", "logger: true"))
    uri = f"sqlite:///{Path('here.db').absolute()}"
    trained.bad = {"fast, seed 1"}
    client = mlflow.MlflowClient(uri)
    parents = []
    for code, status in ((1, "FAILED"), (0, "FINISHED")):
        assert main(["sweep", "-c", sweep, "--tracking-uri", uri]) == code
        (parent,) = client.search_runs([client.get_experiment_by_name("clipkit").experiment_id])
        assert parent.info.status == status
        parents.append(parent.info.run_id)
        trained.bad = set()
    assert parents[0] == parents[1]
    assert f"/runs/{parents[0]}" in capsys.readouterr().out
    for _, words in trained.asked:
        (word,) = words
        assert f'"tags": {{"mlflow.parentRunId": "{parents[0]}"}}' in word
        assert f'"tracking_uri": "{uri}"' in word
    kept = {file.path for file in client.list_artifacts(parents[0])}
    assert kept == {"comparison.png", "points.csv", "summary.csv", "sweep.yaml"}
    assert client.get_run(parents[0]).data.params["settings.slow.model.lr"] == "0.25"


def test_a_tracker_that_is_away_stops_nothing(sweep, trained, capsys, monkeypatch):
    Path("base.yaml").write_text(Path("base.yaml").read_text().replace("logger: false", "logger: true"))
    monkeypatch.setitem(sweep_tracking.PATIENCE, "server", 0.1)
    monkeypatch.setattr(journal, "_PATIENCE", 0.1)
    assert main(["sweep", "-c", sweep, "--tracking-uri", "http://127.0.0.1:9"]) == 0
    out, err = capsys.readouterr()
    assert "the tracker does not answer" in err
    assert re.search(r"^\d+ records have not reached the tracker; to send them:\nclipkit replay sweeps/try$", out, re.M)
    assert trained.runs == ALL
    assert '"tags": {}' in trained.asked[0][1][0]


def test_a_logger_of_one_s_own_stays_and_gets_the_parent(sweep, trained):
    logger = "{class_path: clipkit.tracking.MLflowLogger, tracking_uri: 'sqlite:///own.db', tags: {a: b}}"
    Path("base.yaml").write_text(Path("base.yaml").read_text().replace("logger: false", f"logger: {logger}"))
    assert main(["sweep", "-c", sweep]) == 0
    _, words = trained.asked[0]
    assert [word.split("=")[0] for word in words] == [f"--trainer.logger.{x}" for x in ("save_dir", "run_name", "tags")]
    assert "mlflow.parentRunId" in words[2]
    assert Path("own.db").exists() and not Path("mlflow.db").exists()


# The processes, with a stand-in for the command that needs no heavy import.


@pytest.fixture
def process(sweep, monkeypatch):
    """``process(code)``: a sweep whose runs are ``python -c code``; ``home`` is the run's folder there."""

    def process(code, lock):
        def command(self, run, logger):
            return [sys.executable, "-c", f"home = {str(self.home(run))!r}\n{code}"]

        monkeypatch.setattr(Trainings, "_command", command)
        return Trainings(read_sweep(sweep), Path("sweeps/try"), [], lock)

    return process


def test_a_process_is_watched_and_its_output_kept(process):
    seen = []
    with claimed(Path("sweeps/try")) as lock:
        trainings = process("import sys, time\nprint('one', flush=True)\ntime.sleep(1.5)\nsys.exit(7)", lock)
        run = trainings.sweep.runs[0]
        assert trainings.train(run, [], seen.append) == 7
        assert trainings.train(run, [], seen.append) == 7
    assert set(seen) == {"one"}
    assert re.findall(r"^\$|^one", trainings.log(run).read_text(), re.M) == ["$", "one"] * 2


def test_a_signal_is_handed_to_the_run_and_the_handlers_come_back(process):
    code = (
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        f"os.kill({os.getpid()}, signal.SIGHUP)\ntime.sleep(60)"
    )
    before = signal.getsignal(signal.SIGHUP)
    with claimed(Path("sweeps/try")) as lock:
        trainings = process(code, lock)
        with stopping(trainings):
            assert trainings.train(trainings.sweep.runs[0], [], lambda _: None) == 3
    assert trainings.stopped == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_folder_is_one_sweep_s_and_that_of_the_runs_it_left_behind(own_folder):
    with claimed(Path("a")) as lock:
        with (
            pytest.raises(ConfigError, match=rf"a is in use by another .*\(process {os.getpid()}\)"),
            claimed(Path("a")),
        ):
            pass
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock.fileno()])
    with pytest.raises(ConfigError, match="a is in use"), claimed(Path("a")):
        pass
    left.kill()
    left.wait()
    with claimed(Path("a")):
        pass


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(sweep):
    with claimed(Path("sweeps/try")) as lock:
        trainings = Trainings(read_sweep(sweep), Path("sweeps/try"), ["--trust", "json"], lock)
    run = trainings.sweep.runs[0]
    home = trainings.home(run)
    history = History(home / "metrics.jsonl", 1)
    history.log_metrics({"val/loss": 1.0}, 0)
    afresh = trainings._command(run, ["--trainer.logger=x"])
    assert afresh[1:5] == ["-m", "clipkit", "fit", "-c"]
    assert afresh[5:8] == ["base.yaml", "--model.lr=0.25", "--seed_everything=0"]
    assert {"--trainer.logger=x", "--trust", "json", str(home / "metrics.jsonl")} <= set(afresh)
    assert "--resume" not in afresh
    assert trainings.told(run).curves == {}  # of an attempt that is lost
    history.log_metrics({"val/loss": 1.0}, 0)
    for step, weight in ((1, 1.0), (2, 1.0), (3, float("nan")), (4, 1.0)):
        path = home / f"{step}.ckpt"
        DurableCheckpointIO().save_checkpoint({"global_step": step, "state_dict": {"w": torch.tensor(weight)}}, path)
    path.write_bytes(path.read_bytes()[:-9])
    assert trainings._command(run, [])[-2:] == ["--resume", str(home / "2.ckpt")]
    assert trainings.told(run).curves


def test_what_was_said_last(own_folder):
    assert last_line(Path("log")) == ""
    Path("log").write_text("x" * 5000 + "\n one \n two\n\n  \n")
    assert last_line(Path("log")) == "two"
    Path("log").write_text("\n")
    assert last_line(Path("log")) == ""


TINY = (Path(__file__).parents[1] / "tiny_model.yaml").read_text(encoding="utf-8")
BASE = (
    TINY
    + """data: {train: emoji/concepts, caption: name, batch_size: 16, workers: 0}
trainer: {max_epochs: 2, limit_train_batches: 2, limit_val_batches: 0, accelerator: cpu, log_every_n_steps: 1}
"""
)
REAL = """
base: tiny.yaml
metric: train/loss
settings:
  whole: {model.lr: 1e-3}
  fails: {data.batch_size: 100000}
"""


def test_two_runs_in_their_own_processes(own_folder, capsys):
    Path("tiny.yaml").write_text(BASE, encoding="utf-8")
    Path("real.yaml").write_text(REAL, encoding="utf-8")
    assert main(["sweep", "-c", "real.yaml"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"failed: fails, seed 0 \(exit code 2; .*\): clipkit fit: .*data.batch_size", out)
    with Path("sweeps/real/points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], int(row["images"])) for row in rows] == [("whole", 16 * step) for step in (1, 2, 3, 4)]
    client = mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    runs = {run.info.run_name: run for run in client.search_runs(["1"])}
    assert set(runs) == {"real", "whole, seed 0"}
    assert runs["whole, seed 0"].data.tags["mlflow.parentRunId"] == runs["real"].info.run_id
    assert runs["whole, seed 0"].info.status == "FINISHED"
    assert runs["real"].info.status == "FAILED"
    assert list(Path("sweeps/real").glob("whole-*/clipkit/*/checkpoints/*.ckpt"))
