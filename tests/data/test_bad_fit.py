"""Real fits on damaged streams, local and remote: what is skipped is kept and counted, too much of it stops the run."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from clipkit.callbacks import SamplePosition
from clipkit.data import CaptionDataModule, unpack_skips
from clipkit.tracking import TooManySkipped, TrackSkipped
from clipkit.types import ArgumentError

from .malformed import HTML, members, picture, samples, tar
from .servers import braced, read_epoch


class Task(pl.LightningModule):
    def __init__(self, spec):
        super().__init__()
        self.model = nn.Linear(3 * 8 * 8, 1)
        self.model.inputs = spec

    def training_step(self, batch, batch_idx):
        return self.model(batch.image.float().flatten(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def fit(spec, data, track, max_epochs=1):
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = {
        "max_epochs": max_epochs,
        "log_every_n_steps": 1,
        "logger": CSVLogger(".", "", "run"),
        "accelerator": "cpu",
    }
    trainer = pl.Trainer(callbacks=[SamplePosition(), track], **quiet, **settings)
    trainer.fit(Task(spec), datamodule=data)
    return {name: float(value) for name, value in trainer.logged_metrics.items()}


@pytest.fixture
def damaged(tmp_path):
    """12 samples of which 2 are bad, then a shard that is none; 20 good ones in another folder."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    bad = [*members("html\u2028page", image=HTML), *members("blank", txt=b" ")]  # which is a line's end to Unicode
    (tmp_path / "a/0.tar").write_bytes(tar([*samples("a"), *bad]))
    (tmp_path / "a/1.tar").write_bytes(tar(samples("c")))
    (tmp_path / "a/\udcff.tar").write_bytes(HTML)  # a name that is no UTF-8
    (tmp_path / "b/0.tar").write_bytes(tar(samples("b")))
    (tmp_path / "b/1.tar").write_bytes(tar(samples("d")))
    return tmp_path


def quarantine(folder):
    return [json.loads(line) for line in (folder / "run/quarantine.jsonl").read_text().split("\n")[:-1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit_on_a_damaged_mixture(spec, damaged, own_folder, workers):
    sources = {f"{damaged}/a": 3.0, f"{damaged}/b": 1.0}
    track = TrackSkipped(most=1)
    data = CaptionDataModule(sources, batch_size=4, workers=workers, epoch_steps=20)
    logged = fit(spec, data, track)
    assert len(data.fingerprint) == 16  # of names of any bytes
    lines = quarantine(own_folder)
    counts = {name: value for name, value in logged.items() if name.startswith("data/skipped_")}
    assert counts == {f"data/skipped_{reason}": count for reason, count in track.skipped.items() if count}
    assert set(counts) == {"data/skipped_not_an_image", "data/skipped_no_caption", "data/skipped_damaged_shard"}
    assert sum(counts.values()) == len(lines)
    assert logged["data/used"] == 80 and logged["data/read"] == 80 + len(lines)
    assert logged["data/repeated"] == 60 - 20  # of a: two turns over its 20 good ones are repeated; of b none is
    shares = {name[-1]: value for name, value in logged.items() if name.startswith("data/share_")}
    assert shares == {"a": 0.75, "b": 0.25}
    first = {(line["source"], line["key"]): line for line in lines}
    assert (
        first[f"{damaged}/a/0.tar", "html\u2028page"]["sha256"]
        and first[f"{damaged}/a/\udcff.tar", ""]["sha256"] is None
    )


@pytest.mark.filterwarnings("ignore:.*have no caption")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_fit_on_a_damaged_table(spec, tmp_path, own_folder, workers):
    """Two epochs of 40 rows, 4 of them bad in one way and 3 in another: each has its turn in each."""
    images = [HTML if row % 10 == 3 else picture(size=(9 + row, 8)) for row in range(40)]
    captions = ["" if row == 5 else None if row in (6, 7) else f"thing {row}" for row in range(40)]
    table = {"image": [{"bytes": data, "path": None} for data in images], "text": captions}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    track = TrackSkipped(most=1)
    data = CaptionDataModule(f"{tmp_path}/rows.parquet", batch_size=4, workers=workers)
    logged = fit(spec, data, track, max_epochs=2)
    lines = quarantine(own_folder)
    counts = Counter(line["reason"] for line in lines)
    assert set(counts) == {"not_an_image", "no_caption"}
    assert {f"data/skipped_{reason}": count for reason, count in counts.items()}.items() <= logged.items()
    assert logged["data/used"] == 80 and logged["data/read"] == 80 + len(lines)
    often = Counter(line["key"] for line in lines)
    assert set(often) == {f"row {row}" for row in (3, 13, 23, 33, 5, 6, 7)} and min(often.values()) >= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_indexed_mixture_logs_its_shares(spec, folder, tmp_path, own_folder, workers):
    """At its end they are those of the weights; names that would be logged alike are told apart."""
    for name in ("a b", "a_b"):
        (tmp_path / name).mkdir()
        table = pa.table({"image": [{"bytes": picture(size=(9, 8)), "path": None}] * 6, "captions": [["thing"]] * 6})
        pq.write_table(table, tmp_path / name / "rows.parquet")
    sources = {f"{tmp_path}/a b/rows.parquet": 1.0, f"{tmp_path}/a_b/rows.parquet": 1.0, f"{folder}:train": 6.0}
    data = CaptionDataModule(sources, batch_size=8, workers=workers, caption="captions")
    logged = fit(spec, data, TrackSkipped(most=1))
    steps = (41 + 12) // 8
    assert logged["data/read"] == logged["data/used"] == 8 * steps
    assert sorted(value for name, value in logged.items() if "/share_" in name) == [0.125, 0.125, 0.75]
    assert len({name for name in logged if name.startswith("data/from_")}) == 3
    assert sum(value for name, value in logged.items() if name.startswith("data/from_")) == 8 * steps


def test_too_much_stops_the_fit_with_the_list(spec, damaged, own_folder):
    data = CaptionDataModule(f"{damaged}/a", batch_size=4, workers=0, epoch_steps=100)
    with pytest.raises(TooManySkipped, match=re.escape(f"{damaged}/a/0.tar, html\u2028page: not_an_image: ")) as caught:
        fit(spec, data, TrackSkipped(most=0.1, after=40))
    assert "samples cannot be used, more than 10.0%" in str(caught.value)


@pytest.fixture
def remote(serve, make):
    """``remote({path: content})``: a module of files of the server, asked with short waits."""

    def made(files, **options):
        return make(braced(serve(files, timeout=20)), **{"batch_size": 2, "epoch_steps": 30, "window": 20, **options})

    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_that_fail_are_counted_and_the_rest_is_used(remote, workers):
    names = ["cutonce/0.tar", "fine/1.tar", "missing/2.tar", "reset/3.tar", "stop/4.tar"]
    data = remote({name: tar(samples(name[-5])) for name in names}, workers=workers)
    used, skips = read_epoch(data)
    assert skips == {("missing/2.tar", "refused_shard"), ("stop/4.tar", "unreachable_shard")}
    whole = 3 * 10
    assert whole < len(used) < whole + 10  # and what came of the one that stops half-way


def test_the_first_shard_may_be_missing(remote):
    used, skips = read_epoch(remote({"forbidden/0.tar": b"", "fine/1.tar": tar(samples("x"))}))
    assert len(used) == 10 and skips == {("forbidden/0.tar", "refused_shard")}


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_host_that_gives_nothing_is_an_error_at_once(remote, running, kind):
    with pytest.raises(ArgumentError, match=r"^train: .*127\.0\.0\.1"):
        remote({f"broken/{number}.{kind}": b"" for number in range(50)})
    assert len(running.gets) <= 3  # of fifty shards
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ArgumentError, match=f"^train: .*{address}") as told:
        CaptionDataModule(f"http://me:secret@{address}/{{0..99}}.{kind}?secret", epoch_steps=5)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_table_that_is_cut_off(remote, workers):
    def table(begin):
        images = [{"bytes": picture(size=(9 + i, 8)), "path": None} for i in range(begin, begin + 6)]
        file = pa.BufferOutputStream()
        pq.write_table(pa.table({"image": images, "text": [f"thing {i}" for i in range(6)]}), file)
        return file.getvalue().to_pybytes()

    files = {f"fine/{i}.parquet": table(6 * i) for i in range(3)}
    data = remote(files | {"stop/3.parquet": table(18), "plain/4.parquet": table(24)[:900]}, workers=workers)
    used, skips = read_epoch(data)
    assert len(used) == 18
    assert skips == {("stop/3.parquet", "unreachable_shard"), ("plain/4.parquet", "damaged_shard")}


def test_a_bucket_through_two_workers(emulated, surroundings, monkeypatch, spec):
    address, client = emulated
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for number in range(4):
        client.put_object(Bucket="pictures", Key=f"fit/s-{number}.tar", Body=tar(samples(f"{number}")))
    client.put_object(Bucket="pictures", Key="fit/s-4.tar", Body=HTML)
    data = CaptionDataModule("s3://pictures/fit/s-*.tar", batch_size=2, workers=2, epoch_steps=40)
    data.inputs = spec
    batches = list(data.train_dataloader())
    assert len({row for batch in batches for row in batch.concept.tolist()}) == 40
    skips = {(one.source, one.reason) for batch in batches for one in unpack_skips(batch.extra["skipped"])}
    assert skips == {("s3://pictures/fit/s-4.tar", "damaged_shard")}
