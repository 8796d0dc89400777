"""What cannot be used is counted, kept and replaced; too much of it stops the run."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning.pytorch.loggers import CSVLogger

from clipkit.callbacks import SamplePosition
from clipkit.data import CaptionDataModule
from clipkit.tracking import TooManySkipped, TrackSkipped
from clipkit.types import ArgumentError

from .tiny import Task, picture

ROWS, BAD = 60, (7, 30, 31, 59)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images = [{"bytes": b"broken" if row in BAD else picture(row), "path": None} for row in range(ROWS)]
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(pa.table({"image": images, "text": [f"thing {i}" for i in range(ROWS)]}), path)
    return str(path)


class Stop(pl.Callback):
    """Saves after some steps, goes on for two more, and dies."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == self.step + 2:
            raise KeyError("died")


def run(source, track, *callbacks, resume=None, **options):
    data = CaptionDataModule(source, batch_size=6, workers=0)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"max_epochs": 2, "log_every_n_steps": 1, "logger": CSVLogger(".", "", "run"), **options}
    trainer = pl.Trainer(accelerator="cpu", callbacks=[SamplePosition(), track, *callbacks], **quiet, **settings)
    trainer.fit(Task(), datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "run/quarantine.jsonl").read_text().splitlines()]


def test_counted_kept_and_logged(source, own_folder):
    track = TrackSkipped(most=1)
    trainer = run(source, track)
    found = lines(own_folder)
    assert {one["key"] for one in found} == {f"row {row}" for row in BAD}
    assert {(one["source"], one["reason"]) for one in found} == {("the training rows", "not_an_image")}
    assert len(found[0]["sha256"]) == 64
    figures = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert figures["data/used"] == track.used == 2 * ROWS
    assert figures["data/skipped_not_an_image"] == len(found) >= 2 * len(BAD)
    assert figures["data/read"] == figures["data/used"] + len(found)


def test_counts_go_on_with_the_run(source, own_folder, tmp_path):
    whole = TrackSkipped(most=1)
    run(source, whole)
    kept = lines(own_folder)
    (own_folder / "run/quarantine.jsonl").unlink()
    with pytest.raises(KeyError):
        run(source, TrackSkipped(most=1), Stop(7, tmp_path / "a.ckpt"))
    assert len(lines(own_folder)) > 0
    rest = TrackSkipped(most=1)
    run(source, rest, resume=tmp_path / "a.ckpt")
    assert (rest.used, rest.skipped) == (whole.used, whole.skipped)
    assert lines(own_folder) == kept


def test_too_many_stop_the_run_with_the_list(source, own_folder):
    with pytest.raises(TooManySkipped) as caught:
        run(source, TrackSkipped(most=0.03, after=50))
    message = str(caught.value)
    assert " samples cannot be used, more than 3.0% (not_an_image " in message
    assert "run/quarantine.jsonl:\n  the training rows, row " in message
    run(source, TrackSkipped(most=0.03, after=500))  # too early to tell
    run(source, TrackSkipped(most=0.2, after=50))


@pytest.mark.parametrize("every", [1000, 0])
def test_too_many_are_seen_between_the_steps_that_log(source, own_folder, every):
    with pytest.raises(TooManySkipped):
        run(source, TrackSkipped(most=0.03, after=50), log_every_n_steps=every)


def test_a_list_that_cannot_be_written_is_told_once_and_stops_nothing(source, own_folder, caplog):
    (own_folder / "run/quarantine.jsonl").mkdir(parents=True)
    track = TrackSkipped(most=1)
    run(source, track)
    assert sum(track.skipped.values()) >= 2 * len(BAD)
    assert caplog.text.count("what is left out is counted all the same") == 1


def test_no_logger_and_a_data_module_that_tells_nothing(source, own_folder):
    run(source, TrackSkipped(most=1), logger=False, default_root_dir=".")
    assert (own_folder / "quarantine.jsonl").is_file()


def test_a_share_that_cannot_be():
    with pytest.raises(ArgumentError, match="most: 2 is not in"):
        TrackSkipped(most=2)


class StopWithin(pl.Callback):
    """Saves among the batches of a step, and dies after the next."""

    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.path)
        if batch_idx == self.batch + 1:
            raise KeyError("died")


@pytest.mark.parametrize("batch", [3, 4, 5, 6, 7])
def test_batches_that_come_again_are_counted_once(source, own_folder, tmp_path, batch):
    options = {"accumulate_grad_batches": 3, "max_epochs": 1}
    whole = TrackSkipped(most=1)
    run(source, whole, **options)
    kept = lines(own_folder)
    (own_folder / "run/quarantine.jsonl").unlink()
    with pytest.raises(KeyError):
        run(source, TrackSkipped(most=1), StopWithin(batch, tmp_path / "a.ckpt"), **options)
    rest = TrackSkipped(most=1)
    run(source, rest, resume=tmp_path / "a.ckpt", **options)
    assert (rest.used, rest.skipped) == (whole.used, whole.skipped)
    assert lines(own_folder) == kept
