"""``LogPictures`` and ``TrackRun`` with every kind of logger; with MLflow's they are in test_server.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import datasets
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from clipkit.tracking import LogPictures, TrackRun
from clipkit.types import ArgumentError

PICTURES = {"gallery.png", "gallery.json", "embeddings.png", "confusions.png", "curves.png"}


class Greys(nn.Module):
    """A picture is its mean grey, a text its first digit; training mode would give the game away."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def encode_image(self, images):
        assert not self.training and not torch.is_grad_enabled()
        grey = torch.tensor([float(np.asarray(image).mean()) / 255 for image in images])
        return torch.stack([grey, 1 - grey], 1)

    def encode_text(self, texts):
        grey = torch.tensor([int(text[-1]) / 10 for text in texts])
        return torch.stack([grey, 1 - grey], 1)


class Scorer(nn.Module):
    """Only scores, as a captioner does."""

    def prepare(self, classes):
        return torch.arange(float(len(classes)))

    def class_scores(self, images, prepared):
        return prepared.expand(len(images), -1)


class Task(pl.LightningModule):
    def __init__(self, model, fails=False):
        super().__init__()
        self.save_hyperparameters({"lr": 0.5})
        self.model, self.layer, self.fails = model, nn.Linear(2, 1), fails

    def training_step(self, batch, batch_idx):
        if self.fails:
            raise ValueError("broken")
        loss = self.layer(batch).square().sum()
        self.log_dict({"train/loss": loss, "train/logit_scale": 14.0})
        return loss

    def validation_step(self, batch, batch_idx):
        assert not self.model.training
        self.log("val/loss", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Data(pl.LightningDataModule):
    fingerprint = "0123456789abcdef"

    def __init__(self, rows):
        super().__init__()
        self.train_rows, self.val_rows, self.image = rows, None, "image"

    def train_dataloader(self):
        return DataLoader(torch.ones(6, 2))

    def val_dataloader(self):
        return DataLoader(torch.ones(1, 2))


@pytest.fixture(scope="module")
def rows():
    pictures = [Image.new("RGB", (8, 8), (25 * (i % 7),) * 3) for i in range(20)]
    return datasets.Dataset.from_dict(
        {"image": pictures, "name": [f"grey {i % 7}" for i in range(20)], "captions": [["one", "two"]] * 20},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "name": datasets.Value("string"),
                "captions": datasets.List(datasets.Value("string")),
            }
        ),
    )


def fit(task, rows, callbacks, logger=False, **arguments):
    trainer = pl.Trainer(
        max_epochs=2, logger=logger, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, **arguments,
    )  # fmt: skip
    trainer.fit(task, datamodule=Data(rows))
    return trainer


def below(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("logger", [False, "csv"])
def test_pictures_without_mlflow(rows, logger, own_folder):
    task, logger = Task(Greys()), CSVLogger("runs") if logger else False
    fit(task, rows, [LogPictures(every_n_epochs=2, queries=3)], logger)
    folder = Path(logger.log_dir) if logger else own_folder
    assert below(folder / "pictures") == (PICTURES | {f"epoch_2/{name}" for name in PICTURES}) - {
        "confusions.png", "epoch_2/confusions.png",
    }  # fmt: skip
    assert task.model.training
    gallery = json.loads((folder / "pictures" / "gallery.json").read_text())
    assert [query["text"] for query in gallery["queries"]] == ["grey 0", "grey 3", "grey 6"]
    assert gallery["candidates"] == list(range(20)) and gallery["rows"] is None


def test_a_model_that_only_scores_gets_its_confusions(rows, own_folder):
    fit(Task(Scorer()), rows, [LogPictures(label="name")])
    assert below(own_folder / "pictures") == {"confusions.png", "curves.png"}


def test_a_model_that_does_neither_gets_its_curves(rows, own_folder):
    fit(Task(nn.Linear(2, 2)), rows, [LogPictures()])
    assert below(own_folder / "pictures") == {"curves.png"}


def test_a_picture_that_fails_costs_no_run(rows, own_folder, caplog, monkeypatch):
    monkeypatch.setattr(Greys, "encode_text", lambda self, texts: texts[0] / 0)
    with caplog.at_level(logging.WARNING):
        trainer = fit(Task(Greys()), rows, [LogPictures()])
    assert trainer.state.finished and below(own_folder / "pictures") == {"curves.png"}
    assert any("pictures were not drawn: TypeError" in message for message in caplog.messages)


def test_what_is_not_there_is_said_at_once(rows, tmp_path):
    rows.to_parquet(tmp_path / "rows.parquet")
    source = str(tmp_path / "rows.parquet")
    with pytest.raises(ArgumentError, match="rows: there is nothing at"):
        LogPictures(rows=str(tmp_path / "row.parquet"))
    with pytest.raises(ArgumentError, match="label: there is no column 'nam'; did you mean 'name'"):
        LogPictures(rows=source, label="nam")
    assert LogPictures(rows=source).label == "name"


def test_curves_go_on_after_resuming(rows):
    first, second = LogPictures(), LogPictures()
    trainer = fit(Task(Greys()), rows, [first, ModelCheckpoint("saved")])
    steps = [step for step, _ in first.history["train/loss"]]
    assert steps == list(range(1, 13)) and [step for step, _ in first.history["val/loss"]] == [6, 12]
    assert {value for _, value in first.history["train/logit_scale"]} == {14.0}
    state = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["callbacks"][first.state_key]
    second.load_state_dict(state)
    assert second.history == first.history
    assert LogPictures("emoji/cells").state_key != first.state_key


def test_a_long_history_is_thinned(monkeypatch):
    monkeypatch.setattr("clipkit.tracking.log_pictures._MOST_POINTS", 10)
    callback = LogPictures()
    for step in range(100):
        trainer = type("Trainer", (), {"callback_metrics": {"val/loss": torch.tensor(1.0)}, "global_step": step})
        callback._note(trainer, "val/loss")
    steps = [step for step, _ in callback.history["val/loss"]]
    assert 5 <= len(steps) <= 10 and steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] >= 90


@pytest.mark.parametrize("logger", [False, "csv"])
@pytest.mark.parametrize("config", [{"model": {"lr": 0.5}}, "model:\n  lr: 0.5  # as given\n", None])
def test_track_run_without_mlflow(rows, logger, config, own_folder):
    logger = CSVLogger("runs") if logger else False
    fit(Task(Greys()), rows, [TrackRun(config)], logger)
    text = (Path(logger.log_dir if logger else own_folder) / "config.yaml").read_text()
    assert yaml.safe_load(text)["model"] == {"lr": 0.5}
    assert ("# as given" in text) == isinstance(config, str)


def test_track_run_keeps_the_error(rows, own_folder):
    with pytest.raises(ValueError, match="broken"):
        fit(Task(Greys(), fails=True), rows, [TrackRun(), LogPictures()])
    assert "ValueError: broken" in (own_folder / "error.txt").read_text()


def test_nothing_is_written_in_a_trial(rows, own_folder):
    fit(Task(Greys()), rows, [TrackRun(), LogPictures(every_n_epochs=1)], fast_dev_run=True)
    assert below(own_folder) == set()


class Taker(CSVLogger):
    """Another logger that takes artifacts and tags."""

    def __init__(self):
        super().__init__("runs")
        self.files, self.tags = {}, {}

    def log_artifact(self, path, folder=""):
        self.files[Path(folder, Path(path).name).as_posix()] = Path(path).read_bytes()

    def log_tags(self, tags):
        self.tags.update(tags)


def test_what_a_logger_is_handed(rows):
    taker = Taker()
    deciding = ModelCheckpoint(monitor="val/loss", filename="best")
    fit(Task(Greys()), rows, [TrackRun(), LogPictures(), ModelCheckpoint(filename="last"), deciding], taker)
    assert {"config.yaml", "pictures/gallery.png", "pictures/gallery.json", "checkpoints/best.ckpt"} <= set(taker.files)
    assert "checkpoints/last.ckpt" not in taker.files
    assert taker.tags["checkpoint.metric"] == "val/loss" and taker.tags["checkpoint.score"] == "1"
    assert taker.tags["data.fingerprint"] == Data.fingerprint and "version.torch" in taker.tags
    assert taker.tags["device"].startswith("cpu")

    taker = Taker()
    fit(Task(Greys()), rows, [TrackRun(upload_checkpoint=False)], taker)
    assert set(taker.files) == {"config.yaml"} and taker.tags["checkpoint.best"].endswith(".ckpt")
