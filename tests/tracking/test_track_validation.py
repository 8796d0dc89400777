"""What validation leaves out is counted, logged and told once."""

from __future__ import annotations

import csv
import io
import tarfile
import warnings

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch.loggers import CSVLogger

from clipkit.callbacks import SamplePosition
from clipkit.data import CaptionDataModule
from clipkit.tracking import TrackValidation

from .tiny import Task, picture


def table(path, rows, bad=(), blank=()):
    images = [{"bytes": b"<html>" if row in bad else picture(row), "path": None} for row in range(rows)]
    captions = [None if row in blank else f"thing {row}" for row in range(rows)]
    pq.write_table(pa.table({"image": images, "text": captions}), path)
    return str(path)


def shard(path, rows, bad=()):
    """An archive that is cut off behind its last sample."""
    with tarfile.open(path, "w") as archive:
        for row in range(rows):
            for name, data in ((f"{row}.png", b"<html>" if row in bad else picture(row)), (f"{row}.txt", b"thing")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    path.write_bytes(path.read_bytes().rstrip(b"\0") + b"rubbish" * 100)
    return str(path)


def run(track, train, val, command="fit", **options):
    data = CaptionDataModule(train, val, batch_size=4, **{"workers": 0, **options})
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    logger = CSVLogger(".", "", "run")
    settings = {"max_epochs": 2, "log_every_n_steps": 1, "logger": logger, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[SamplePosition(), track], **quiet, **settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        getattr(trainer, command)(Task(), datamodule=data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "skipped" in name}
    return metrics, [str(one.message) for one in told if "samples of the validation set" in str(one.message)]


@pytest.mark.parametrize("workers", [0, 2])
def test_counted_logged_and_told_once(own_folder, workers):
    train = table(own_folder / "a.parquet", 12)
    val = table(own_folder / "b.parquet", 23, bad=(1, 9, 10, 22), blank=(4, 5))
    track = TrackValidation()
    metrics, told = run(track, train, val, workers=workers)
    # 10 is met twice, since it stands in for 9.
    assert metrics == {"val/skipped_not_an_image": 4, "val/skipped_no_caption": 2}
    assert track.skipped == {"not_an_image": 4, "no_caption": 2}
    (message,) = told
    assert message.startswith("6 samples of the validation set cannot be used (no_caption 2, not_an_image 4); ")
    assert "\n  the validation rows, row 4: no_caption: it has no caption\n" in message
    with (own_folder / "run/metrics.csv").open() as file:
        logged = [row["val/skipped_no_caption"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == [2, 2]  # after each of two epochs


def test_a_streamed_set_tells_what_it_could_not_read(own_folder):
    train, val = table(own_folder / "a.parquet", 12), shard(own_folder / "v.tar", 8, bad=(3,))
    metrics, told = run(TrackValidation(), train, val)
    assert metrics == {"val/skipped_not_an_image": 1, "val/skipped_damaged_shard": 1}
    assert len(told) == 1
    metrics, _ = run(TrackValidation(), train, val, val_limit=3)
    assert metrics == {}  # neither the fourth sample nor the end of the shard is part of it


def test_validation_by_itself(own_folder):
    train = table(own_folder / "a.parquet", 12)
    metrics, told = run(TrackValidation(), train, table(own_folder / "b.parquet", 9, bad=(2,)), "validate")
    assert metrics == {"val/skipped_not_an_image": 1} and len(told) == 1


def test_a_sound_set_is_not_spoken_of(own_folder):
    train = table(own_folder / "a.parquet", 12)
    assert run(TrackValidation(), train, table(own_folder / "b.parquet", 9)) == ({}, [])
