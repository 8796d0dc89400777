"""Everything through a real ``mlflow server`` and read back over its API: whole, away, stalling, and dying half-way."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from mlflow import MlflowClient
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from clipkit.data import load_rows
from clipkit.tracking import LogPictures, MLflowLogger, TrackRun, replay, run_of_checkpoint
from clipkit.tracking.destination import LOCAL_ID_TAG
from clipkit.types import ArgumentError

STEPS = 30


class Server:
    """``mlflow server`` on a loopback port, which can be killed and started again in its place."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        options = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *options],
            cwd=self.folder, env=environment, start_new_session=True,
            stdout=(self.folder / "log").open("ab"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)
        pytest.fail((self.folder / "log").read_text())

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """Stands before the server: ``forward``, ``refuse``, ``stall`` (never answer) or ``swallow`` (lose the answer)."""

    def __init__(self, port):
        self.target, self.mode, self.open = port, "forward", []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, client):
        mode = self.mode
        self.open.append(client)
        if mode == "refuse":
            client.close()
        if mode in ("refuse", "stall"):
            return
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
            self.pump(server, client)

    def pump(self, source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.mode == "swallow" and source.getpeername()[1] == self.target:
                    break
                if self.mode in ("refuse", "stall"):
                    return
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        for client in self.open:
            client.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def hasty(monkeypatch):
    """The same waits as in earnest, only shorter."""
    monkeypatch.setattr("clipkit.tracking.journal._PATIENCE", 3.0)
    monkeypatch.setattr("clipkit.tracking.destination._FIRST_TIMEOUT", 1)
    monkeypatch.setattr("clipkit.tracking.ship._INTERVAL", 0.1)
    monkeypatch.setattr("clipkit.tracking.ship._BACK_OFF", (0.1, 0.2))


class Tiny(pl.LightningModule):
    """Logs its step as ``train/step_value``, and does at a step what it is told to."""

    def __init__(self, at=None, do=None):
        super().__init__()
        self.layer, self.at, self.do, self.done = nn.Linear(2, 1), at, do, 0

    def training_step(self, batch, batch_idx):
        if self.global_step == self.at:
            self.do()
        self.done += 1
        self.log("train/step_value", float(self.global_step))
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/image_to_text_R@1", 0.5 + 0.01 * self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(logger, module=None, callbacks=(), ckpt_path=None, epochs=1):
    module = module or Tiny()
    trainer = pl.Trainer(
        logger=logger, max_epochs=epochs, log_every_n_steps=1, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    rows = DataLoader(torch.ones(STEPS, 2))
    trainer.fit(module, rows, DataLoader(torch.ones(2, 2)), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def client(server):
    return MlflowClient(tracking_uri=server.uri)


def logged_steps(client, run_id, name="train/step_value"):
    """Steps in the order they were logged; a value that is there twice appears twice."""
    history = client.get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def whole(epochs=1):
    return [(step, float(step)) for step in range(STEPS * epochs)]


def only_run(client, logger):
    experiment = client.get_experiment_by_name(logger._experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.`{LOCAL_ID_TAG}` = '{logger.version}'")
    assert len(runs) == 1
    return runs[0]


def quiet_logger(uri, **arguments):
    return MLflowLogger(uri, experiment="tests", **{"system_metrics": False, **arguments})


def test_a_run_is_read_back_whole(server, client):
    logger = MLflowLogger(server.uri, experiment="whole", run_name="first", tags={"team": "red"})
    checkpoint = ModelCheckpoint(monitor="val/image_to_text_R@1", mode="max")
    config = {"model": {"lr": 1e-3, "note": "x" * 7000}, "data": {"train": "emoji", "tokenizer": "emoji"}}
    trainer = fit(logger, callbacks=[checkpoint, TrackRun(config)])
    logger.log_metrics({"late": 1.0}, step=5)
    logger.log_metrics({"odd": math.inf, "none": math.nan, "word": "x"}, step=6)
    logger.finalize("success")

    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert run.data.params["model.lr"] == "0.001" and run.data.params["data.tokenizer"] == "emoji"
    assert run.data.params["model.note"].endswith("config.yaml]") and len(run.data.params["model.note"]) == 6000
    assert logged_steps(client, logger.run_id) == whole()
    assert run.data.metrics["val/image_to_text_R_at_1"] == 0.5 and run.data.metrics["late"] == 1.0
    assert math.isnan(run.data.metrics["odd"]) and math.isnan(run.data.metrics["none"])
    assert run.data.tags["not_finite.odd"] == "inf at step 6" and "word" not in run.data.metrics
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert run.data.tags["team"] == "red" and torch.__version__.startswith(run.data.tags["version.torch"])
    assert run.data.tags["checkpoint.metric"] == "val/image_to_text_R@1" and run.data.tags["checkpoint.score"] == "0.5"
    assert run.data.tags["checkpoint.best"] == checkpoint.best_model_path

    text = Path(client.download_artifacts(logger.run_id, "config.yaml", ".")).read_text()
    assert "x" * 7000 in text and "tokenizer: emoji" in text
    name = Path(checkpoint.best_model_path).name
    stored = Path(client.download_artifacts(logger.run_id, f"checkpoints/{name}", "."))
    assert stored.read_bytes() == Path(checkpoint.best_model_path).read_bytes()
    assert Path(checkpoint.best_model_path).parent == Path("runs/whole", logger.version, "checkpoints")
    assert trainer.global_step == STEPS and logger.unsent == 0
    assert logger.run_url == f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{logger.run_id}"
    with urllib.request.urlopen(server.uri) as page:
        assert b"<title>MLflow</title>" in page.read()


class Thumbnails(nn.Module):
    """Encodes a picture as its 4 x 4 thumbnail and a text as a thumbnail that its letters choose."""

    def encode_image(self, images):
        small = [np.asarray(image.convert("RGB").resize((4, 4)), dtype=np.float32).ravel() for image in images]
        return nn.functional.normalize(torch.from_numpy(np.stack(small)) - 128, dim=-1)

    def encode_text(self, texts):
        rows = [np.random.default_rng(list(text.encode())).normal(size=48).astype(np.float32) for text in texts]
        return nn.functional.normalize(torch.from_numpy(np.stack(rows)), dim=-1)

    def prepare(self, classes):
        return torch.stack([self.encode_text(prompts).mean(0) for prompts in classes])

    def class_scores(self, images, prepared):
        return self.encode_image(images) @ prepared.T


def test_pictures_are_read_back(server, client):
    module, logger = Tiny(), quiet_logger(server.uri)
    module.model = Thumbnails()
    fit(logger, module, [LogPictures(rows="emoji/cells", max_rows=150, queries=6, every_n_epochs=1)])
    folder = Path(client.download_artifacts(logger.run_id, "pictures", "."))
    pictures = {path.stem: np.asarray(Image.open(path).convert("L")) for path in folder.glob("*.png")}
    assert set(pictures) == {"gallery", "confusions", "embeddings", "curves"}
    for name, picture in pictures.items():
        assert min(picture.shape) > 400 and picture.std() > 8, name
        assert (picture[:4] == 255).all() and (picture[:, -4:] == 255).all(), f"{name}: something is cut off"
    assert {path.name for path in (folder / "epoch_1").iterdir()} == {path.name for path in folder.glob("*.*")}

    rows, gallery = load_rows("emoji/cells"), json.loads((folder / "gallery.json").read_text())
    candidates = rows.select(gallery["candidates"])
    images = module.model.encode_image(candidates["image"][:]).numpy().astype(np.float64)
    assert len(gallery["queries"]) == 6 and gallery["rows"] == "emoji/cells" and len(candidates) == 150
    for query in gallery["queries"]:
        assert rows[query["row"]]["name"] == query["text"]
        scores = images @ module.model.encode_text([query["text"]])[0].numpy().astype(np.float64)
        best = sorted(range(150), key=lambda i: (-scores[i], i))[:5]
        assert query["top"] == [gallery["candidates"][i] for i in best]
        assert query["scores"] == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert query["right"] == [rows[i]["name"] == query["text"] for i in query["top"]]


def test_text_and_files_survive_their_originals(server, client, tmp_path):
    logger = quiet_logger(server.uri)
    file = tmp_path / "plot.bin"
    file.write_bytes(bytes(range(256)))
    logger.log_artifact(file, "plots")
    file.unlink()
    logger.log_text("a: 1\npassword: hunter22\n", "notes/a.yaml")
    logger.log_artifact(tmp_path / "nowhere")
    logger.finalize("success")
    assert {item.path for item in client.list_artifacts(logger.run_id)} == {"notes", "plots"}
    assert Path(client.download_artifacts(logger.run_id, "plots/plot.bin", ".")).read_bytes() == bytes(range(256))
    assert Path(client.download_artifacts(logger.run_id, "notes/a.yaml", ".")).read_text() == (
        "a: 1\npassword: [redacted]\n"
    )


def test_more_than_a_call_may_hold(server, client):
    logger = quiet_logger(server.uri)
    logger.log_hyperparams({f"p{i}": i for i in range(250)})
    for step in range(3):
        logger.log_metrics({f"m{i}": i for i in range(900)}, step)
    logger.finalize("success")
    run = client.get_run(logger.run_id)
    assert len(run.data.params) == 250 and len(run.data.metrics) == 900
    assert len(client.get_metric_history(logger.run_id, "m899")) == 3


def stop(signum):
    return lambda: os.kill(os.getpid(), signum)


def fail():
    raise ValueError("broken at https://me:s3cr3tpw@host")


@pytest.mark.parametrize(
    ("do", "raised", "status"),
    [
        (fail, ValueError, "FAILED"),
        (stop(signal.SIGTERM), SystemExit, "KILLED"),
        (stop(signal.SIGINT), SystemExit, "KILLED"),
    ],
)
@pytest.mark.parametrize("callbacks", [(), (TrackRun,)])
def test_how_it_ended(server, client, do, raised, status, callbacks):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logger = quiet_logger(server.uri)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it switched off
    try:
        with pytest.raises(raised):
            fit(logger, Tiny(10, do), [make() for make in callbacks])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # Lightning leaves Ctrl-C switched off
    run = only_run(client, logger)
    assert run.info.status == status
    assert logged_steps(client, logger.run_id)[:10] == whole()[:10]
    if status == "FAILED" and callbacks:
        assert run.data.tags["error"] == "ValueError: broken at https://[redacted]@host"
        error = Path(client.download_artifacts(logger.run_id, "error.txt", ".")).read_text()
        assert "test_server.py" in error and "s3cr3tpw" not in error


def test_a_clean_stop_that_was_asked_for_is_killed_too(server, client):
    logger = quiet_logger(server.uri)
    logger.log_metrics({"a": 1.0}, 0)
    logger.mark_killed()
    logger.finalize("success")
    assert client.get_run(logger.run_id).info.status == "KILLED"


def test_resuming_continues_the_same_run(server, client, caplog):
    first = quiet_logger(server.uri)
    trainer = fit(first, callbacks=[TrackRun({"lr": 0.1, "same": 1})])
    last = trainer.checkpoint_callback.best_model_path
    seen = []

    class Look(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            deadline = time.monotonic() + 60
            while client.get_run(first.run_id).info.status != "RUNNING" and time.monotonic() < deadline:
                time.sleep(0.1)
            seen.append(client.get_run(first.run_id).info.status)

    assert run_of_checkpoint(last) == first.version
    second = quiet_logger(server.uri, run_id=run_of_checkpoint(last))
    fit(second, callbacks=[TrackRun({"lr": 0.2, "same": 1, "new": 3}), Look()], ckpt_path=last, epochs=2)
    assert (second.run_id, second.log_dir) == (first.run_id, first.log_dir) and seen == ["RUNNING"]
    run = only_run(client, first)
    assert run.info.status == "FINISHED" and run.data.tags["clipkit.resumed"] == "1"
    assert {key: run.data.params[key] for key in ("lr", "same", "new", "lr.resumed_1")} == {
        "lr": "0.1", "same": "1", "new": "3", "lr.resumed_1": "0.2",
    }  # fmt: skip
    assert logged_steps(client, first.run_id) == whole(2)
    assert sum("logged as NAME.resumed_1" in message for message in caplog.messages) == 1

    third = quiet_logger(server.uri)
    third.continue_run(first.run_id)  # by MLflow's id
    third.log_hyperparams({"lr": 0.1})
    third.finalize("success")
    assert only_run(client, first).data.params["lr.resumed_2"] == "0.1"
    with pytest.raises(RuntimeError, match="has records already"):
        third.continue_run(second.version)


def test_a_run_begun_elsewhere_is_continued(server, client):
    experiment = client.create_experiment("elsewhere")
    run_id = client.create_run(experiment).info.run_id
    client.log_param(run_id, "lr", "0.1")
    client.set_terminated(run_id)
    logger = quiet_logger(server.uri, run_id=run_id)
    logger.log_hyperparams({"lr": 0.3, "new": 1})
    logger.log_metrics({"a": 1.0}, 3)
    logger.finalize("failed")
    run = client.get_run(run_id)
    assert run.info.status == "FAILED" and run.data.params == {"lr": "0.1", "lr.resumed_1": "0.3", "new": "1"}
    assert run.data.metrics == {"a": 1.0} and logger.experiment_id == experiment


def test_what_the_server_refuses_does_not_hold_up_the_rest(server, client):
    logger = quiet_logger(server.uri)
    for step in range(20):
        logger.log_metrics({"good": step}, step)
    logger._write({"kind": "metrics", "step": 0, "time": 1, "values": {"bad@name": 1.0, "fine": 2.0}})
    logger.log_metrics({"good": 20}, 20)
    logger.finalize("success")
    assert len(client.get_metric_history(logger.run_id, "good")) == 21
    assert client.get_run(logger.run_id).data.metrics["fine"] == 2.0
    (refused,) = Path(logger.spool_dir, "rejected.jsonl").read_text().splitlines()
    assert json.loads(refused)["values"] == {"bad@name": 1.0}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("later", [False, True])
def test_an_artifact_that_is_never_accepted_is_put_aside(server, client, proxy, monkeypatch, later):
    def no_way(self, run_id, path, folder=None):
        raise PermissionError(f"no key for the store at https://me:s3cr3tpw@store: {path}")

    monkeypatch.setattr(MlflowClient, "log_artifact", no_way)
    proxy.mode = "refuse" if later else "forward"
    logger = quiet_logger(proxy.uri)
    logger.log_text("the text", "notes/a.txt")
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    if later:
        proxy.mode = "forward"
        assert replay(Path(logger.spool_dir)).problem is None
    assert logger.unsent == 0 and only_run(client, logger).data.metrics == {"a": 1.0}
    assert only_run(client, logger).info.status == "FINISHED"
    (refused,) = Path(logger.spool_dir, "rejected.jsonl").read_text().splitlines()
    assert "no key for the store at https://[redacted]@store" in json.loads(refused)["reason"]
    (kept,) = Path(logger.spool_dir, "rejected").rglob("a.txt")
    assert kept.read_text() == "the text"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("mode", ["refuse", "stall"])
def test_a_server_that_is_away_costs_no_step_and_no_record(client, proxy, mode, caplog):
    proxy.mode = mode
    module, logger = Tiny(), quiet_logger(proxy.uri)
    trainer = fit(logger, module, [TrackRun({"lr": 1})])
    assert module.done == STEPS and trainer.state.finished
    assert logger.run_id is None and logger.unsent > STEPS
    assert any("clipkit replay" in line for line in logger.closing_lines())
    assert sum("does not answer" in message for message in caplog.messages) == 1
    proxy.mode = "forward"
    done = replay(Path(logger.spool_dir))
    assert done.problem is None and done.left == 0
    run = only_run(client, logger)
    assert run.info.status == "FINISHED" and run.data.params == {"lr": "1"}
    assert logged_steps(client, run.info.run_id) == whole()
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"config.yaml", "checkpoints"}


def test_an_address_where_nobody_listens(monkeypatch):
    monkeypatch.setattr("clipkit.tracking.journal._PATIENCE", 0.5)
    module, logger = Tiny(), quiet_logger(f"http://127.0.0.1:{free_port()}")
    fit(logger, module)
    assert module.done == STEPS and logger.unsent > STEPS


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("mode", ["refuse", "stall", "swallow"])
def test_a_server_that_comes_back_during_the_run_gets_everything(client, proxy, mode):
    class Weather(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (8, 16):
                proxy.mode = mode if trainer.global_step == 8 else "forward"
            time.sleep(0.05)

    logger = quiet_logger(proxy.uri)
    fit(logger, callbacks=[Weather()])
    assert logger.unsent == 0
    run = only_run(client, logger)
    assert run.info.status == "FINISHED" and logged_steps(client, run.info.run_id) == whole()


@pytest.mark.usefixtures("hasty")
def test_a_lost_answer_makes_no_second_run(client, proxy):
    proxy.mode = "swallow"
    logger = quiet_logger(proxy.uri, run_name="once")
    logger.log_metrics({"a": 1.0}, 0)
    time.sleep(2.0)
    proxy.mode = "forward"
    logger.finalize("success")
    assert only_run(client, logger).data.metrics == {"a": 1.0}


@pytest.mark.usefixtures("hasty")
def test_a_server_killed_half_way_has_everything_after_its_return(server, client):
    module, logger = Tiny(15, server.kill), quiet_logger(server.uri)
    fit(logger, module, [TrackRun({"lr": 1})])
    assert module.done == STEPS and logger.unsent > 0
    server.start()
    try:
        later = quiet_logger(server.uri)  # a later run with the same URI sends what the earlier one left
        later.log_metrics({"a": 1.0}, 0)
        deadline = time.monotonic() + 60
        while logger.unsent and time.monotonic() < deadline:
            time.sleep(0.05)
        later.finalize("success")
    finally:
        assert logger.unsent == 0
    run = only_run(client, logger)
    assert run.info.status == "FINISHED" and logged_steps(client, run.info.run_id) == whole()
    assert "checkpoints" in {item.path for item in client.list_artifacts(run.info.run_id)}


def test_sqlite_by_default(own_folder):
    logger = MLflowLogger(system_metrics=False)
    fit(logger)
    client = MlflowClient(tracking_uri=f"sqlite:///{own_folder}/mlflow.db")  # MLflow keeps stores by their address
    assert logged_steps(client, logger.run_id) == whole()
    assert client.get_run(logger.run_id).info.artifact_uri.startswith((own_folder / "mlartifacts").as_uri())
    assert not Path("mlruns").exists()
    assert logger.closing_lines() == [
        "MLflow UI: mlflow server --backend-store-uri sqlite:///mlflow.db --port 5000 --workers 1",
        f"this run:  http://127.0.0.1:5000/#/experiments/{logger.experiment_id}/runs/{logger.run_id}",
    ]


def test_an_sqlite_file_that_cannot_be_made_costs_a_bounded_wait(own_folder, monkeypatch):
    monkeypatch.setattr("clipkit.tracking.journal._PATIENCE", 1.0)
    (own_folder / "file").write_text("in the way")
    module, logger = Tiny(), quiet_logger("sqlite:///file/mlflow.db")
    fit(logger, module)
    assert module.done == STEPS and logger.unsent > STEPS


def test_a_folder_is_no_tracking_uri():
    for uri in ("./mlruns", "file:///x", "mlruns", "C:/x"):
        with pytest.raises(ArgumentError, match=r"sqlite:///mlflow\.db"):
            MLflowLogger(uri)


@pytest.mark.parametrize(
    ("uri", "meant"), [("htp://host:5000", "http"), ("sqlit:///a.db", "sqlite"), ("mysq+x://a", "mysql")]
)
def test_a_slip_in_the_scheme_is_told(uri, meant):
    with pytest.raises(ArgumentError, match=f"did you mean {meant}://"):
        MLflowLogger(uri)
