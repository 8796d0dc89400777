"""Streams through the data module and the real loader: whole, exact, and with all that is wrong in a shard counted."""

from __future__ import annotations

import io
import json
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipkit.data import CaptionDataModule, Flip, unpack_skips
from clipkit.data.streams import find_shards, load_stream
from clipkit.types import ArgumentError

from .malformed import tar


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    path.write_bytes(tar(members))
    return path


def sample(number):
    told = json.dumps({"width": number, "kind": f"k{number % 3}"}).encode()
    return [
        (f"{number:05}.png", picture(number)),
        (f"{number:05}.txt", b"thing %d" % number),
        (f"{number:05}.json", told),
    ]


def write_shards(folder, sizes, start=0):
    for i, size in enumerate(sizes):
        members = [member for number in range(start, start + size) for member in sample(number)]
        write_tar(folder / f"s-{i}.tar", members)
        start += size
    return f"{folder}/s-{{0..{len(sizes) - 1}}}.tar"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [7, 5, 9, 4, 6])


@pytest.fixture
def stream(spec):
    def make(train, **options):
        data = CaptionDataModule(train, **{"batch_size": 4, "workers": 0, "epoch_steps": 10, "window": 5, **options})
        data.inputs = spec
        return data

    return make


def as_rank(monkeypatch, rank, ranks):
    for place in ("clipkit.data.module", "clipkit.data.streaming"):
        monkeypatch.setattr(f"{place}.rank", lambda: rank)
        monkeypatch.setattr(f"{place}.world_size", lambda: ranks)


def take(data):
    """An epoch, consumed batch by batch: what each showed, and the state after it."""
    found = []
    for batch in data.train_dataloader():
        data.advance(1)
        shown = [batch.concept.tolist(), batch.position.tolist(), batch.image.sum().item(), batch.tokens.tolist()]
        found.append((shown, data.state_dict()))
    return found


def test_every_row_before_any_comes_again(stream, shards):
    data = stream(shards, batch_size=1, epoch_steps=62)
    seen = [shown[0][0] for shown, _ in take(data)]
    assert len(set(seen[:31])) == 31 and set(seen[31:]) == set(seen[:31])
    assert seen[31:] != seen[:31]
    assert data.figures() == {"data/repeated": 31}
    assert data.position == 62


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_with_the_next_sample(stream, shards, workers):
    options = {"workers": workers, "transforms": [Flip()], "filters": [("width", ">=", 2)]}
    whole = stream(shards, **options)
    epochs = [take(whole), take(whole)]
    steps = epochs[0] + epochs[1]
    assert [place for shown, _ in steps for place in shown[1]] == list(range(80))
    for after in (1, 4, 7, 10, 13):
        state = steps[after - 1][1]
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        again = stream(shards, **options)
        again.load_state_dict(torch.load(file, weights_only=True))
        assert [shown for shown, _ in take(again)][: len(steps) - after] == [
            shown for shown, _ in steps[after : after + 10]
        ]


def test_ranks_and_workers_share_uneven_shards(stream, tmp_path, monkeypatch):
    """[0, 1, 7, 1000] rows over 2 ranks x 2 workers: as many steps everywhere, nothing dropped, all counted."""
    sizes = [0, 1, 7, 1000]
    source = write_shards(tmp_path, sizes)
    seen, repeated = Counter(), 0
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        monkeypatch.setattr("clipkit.data.streaming.gather_objects", lambda one: [one, one])
        data = stream(source, workers=2, batch_size=50, epoch_steps=40, window=100)
        batches = list(data.train_dataloader())
        data.advance(len(batches))
        assert [len(batch.image) for batch in batches] == [50] * 40
        seen.update(key for batch in batches for key in batch.concept.tolist())
        repeated += data.figures()["data/repeated"]
    assert len(seen) == sum(sizes)
    assert seen.total() == 4000
    assert repeated == 4000 - 1008


def test_another_topology_window_or_seed_is_refused(stream, shards, monkeypatch):
    data = stream(shards, workers=2)
    state = take(data)[3][1]
    with pytest.raises(ArgumentError, match=r"workers: .* by 1 ranks x 2 workers, .* with 1 ranks x 1 workers"):
        stream(shards).load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"window: .* read with 5, so it cannot go on with 6"):
        stream(shards, workers=2, window=6).load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"seed: .* read with 0, so it cannot go on with 1"):
        stream(shards, workers=2, seed=1).load_state_dict(state)
    with pytest.raises(ArgumentError, match="batch_size: a step takes 2 samples"):
        stream(shards, workers=2, batch_size=2).load_state_dict(state)
    other = stream(shards.replace("{0..4}", "{0..3}"), workers=2)
    with pytest.warns(UserWarning, match="of other shards or weights: the stream begins anew"):
        other.load_state_dict(state)
    assert other.position == 0
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ArgumentError, match=r"2 with trainer.accumulate_grad_batches=1 restores it"):
        stream(shards, workers=2).load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"1 ranks x 2 workers, so it cannot go on with 2 ranks x 2 workers"):
        stream(shards, workers=2, batch_size=2).load_state_dict(state)


def test_what_makes_no_sense_is_refused(shards, folder, tmp_path):
    def refused(argument, match, train=shards, **options):
        with pytest.raises(ArgumentError, match=match) as caught:
            CaptionDataModule(train, **{"epoch_steps": 5, "batch_size": 4, **options})
        assert caught.value.argument == argument

    refused("epoch_steps", "how many optimiser steps", epoch_steps=None)
    refused("epoch_steps", "is for streams", train=str(folder))
    refused("resample", "is for streams", train=str(folder), epoch_steps=None, resample=True)
    refused("resample", "`exact` forbids", resample=True, exact=True)
    refused("val_fraction", "cannot be split", val_fraction=0.1)
    refused("distinct_concepts", "read by index", distinct_concepts=True, concept="kind")
    refused("window", "less than 1", window=0)
    refused("caption", r"no column 'text' \(found png|did you mean 'txt'", caption="text")
    refused("image", r"none of jpg \(it has png, txt, json\)", image="jpg")
    refused("filters", "no column 'height'", filters=[("height", ">", 1)])
    refused("train", r"no file matches .*s-5.tar", train=shards.replace("..4", "..5"))
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(b"")
    refused("train", "is compressed", train=str(packed))
    write_tar(tmp_path / "empty.tar", [])
    refused("train", "no sample is found", train=f"{tmp_path}/empty.tar")
    with pytest.warns(UserWarning, match="not exact"):
        CaptionDataModule(shards, epoch_steps=5, resample=True)


def test_weights_are_kept_from_the_first_batch_on(stream, shards, tmp_path):
    other = write_shards(tmp_path, [3, 2], start=100)
    data = stream({shards: 3.0, other: 1.0}, batch_size=8, epoch_steps=5)
    for steps, batch in enumerate(data.train_dataloader(), 1):
        data.advance(1)
        assert list(data.figures().values())[1:] == [6 * steps, 2 * steps]
        assert len(batch.image) == 8
    first = [shown for shown, _ in take(stream([shards, other], batch_size=8, epoch_steps=5))]
    assert first == [shown for shown, _ in take(stream([shards, other], batch_size=8, epoch_steps=5))]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_mixture_goes_on_as_the_undisturbed_one(stream, shards, folder, tmp_path, workers):
    """Three streams, one of them of rows; each at another place, and the small ones in turns of their own."""
    other = write_shards(tmp_path, [3, 2], start=100)
    train = {shards: 3.0, other: 1.0, f"{folder}:train": 2.0}
    steps, figures = [], []
    whole = stream(train, workers=workers)
    for batch in (one for _ in range(2) for one in whole.train_dataloader()):
        whole.advance(1)
        steps.append((batch.concept.tolist(), batch.position.tolist(), batch.image.sum().item()))
        figures.append((whole.state_dict(), whole.figures()))
    assert figures[-1][1]["data/repeated"] > 0
    for after in (1, 2, 7, 10, 15):
        again = stream(train, workers=workers)
        again.load_state_dict(figures[after - 1][0])
        for number, batch in enumerate(again.train_dataloader(), after):
            again.advance(1)
            shown = (batch.concept.tolist(), batch.position.tolist(), batch.image.sum().item())
            if number < 20:
                assert (shown, again.figures()) == (steps[number], figures[number][1])


def test_a_data_set_and_a_stream_are_mixed(stream, shards, folder):
    data = stream({shards: 1.0, f"{folder}:train": 1.0}, batch_size=8, caption=None)
    take(data)
    assert list(data.figures().values())[1:] == [40, 40]


def test_members_are_columns(stream, shards):
    rows = load_stream(shards)
    assert isinstance(rows, datasets.IterableDataset)
    first = next(iter(rows))
    assert first["txt"] == "thing 0" and first["width"] == 0 and first["image"]["bytes"] == picture(0)
    assert len(list(rows)) == 31 and rows.num_shards == 5
    data = stream(shards, extra=["width"], concept="kind", caption="txt", templates=["a {}"])
    batch = next(iter(data.train_dataloader()))
    assert batch.extra["width"].dtype == torch.int64
    assert len(set(batch.concept.tolist())) <= 3


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "folder"])
def test_tables_are_streamed_where_asked(stream, folder, tmp_path, kind):
    source, options = str(folder), {}
    if kind != "folder":
        for i in range(12):
            (tmp_path / f"{i}.png").write_bytes(picture(i))
        rows = [{"filepath": f"{i}.png", "caption": f"thing {i}"} for i in range(12)]
        for part in (0, 1):
            file, own = tmp_path / f"rows-{part}.{kind}", rows[part::2]
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(own), file)
            elif kind == "jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in own))
            else:
                file.write_text("filepath,caption\n" + "".join(f"{row['filepath']},{row['caption']}\n" for row in own))
        source = f"{tmp_path}/rows-*.{kind}"
    data = stream(source, streaming=True, batch_size=3, epoch_steps=4, **options)
    steps = take(data)
    assert len({row for shown, _ in steps for row in shown[0]}) == 12
    assert all(len(unpack_skips(batch.extra["skipped"])) == 0 for batch in data.train_dataloader())
    again = stream(source, streaming=True, batch_size=3, epoch_steps=4)
    again.load_state_dict(steps[1][1])
    assert [shown for shown, _ in take(again)][:2] == [shown for shown, _ in steps[2:]]


def test_validation_from_shards(stream, shards, folder):
    data = stream(str(folder), val=shards, epoch_steps=None, val_limit=10)
    assert len(data.val_rows) == 10
    assert [len(batch.image) for batch in data.val_dataloader()] == [4, 4, 2]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Shards with much that is wrong, and how often each reason is met in a turn."""
    folder = tmp_path_factory.mktemp("damaged")
    good = [member for number in range(30) for member in sample(number)]
    write_tar(folder / "a.tar", [*good, ("x.txt", b"no picture"), ("y.png", b"<html>"), ("y.txt", b"page")])
    bad = [
        ("../e.png", picture(1)),
        ("f.png", picture(2)),
        ("f.png", picture(3)),
        ("f.txt", b"f"),
        ("g.png", picture(4)),
    ]
    bad += [("h.png", picture(5)[:90]), ("h.txt", b"h"), ("i.png", picture(6)), ("i.txt", b"\xff\xfe\xfd"), *good[:3]]
    write_tar(
        folder / "b.tar", [*bad, ("j.png", b""), ("j.txt", b"j"), ("k.png", picture(7)), ("k.txt", b" "), *good[:3]]
    )
    (folder / "c.tar").write_bytes((folder / "a.tar").read_bytes()[:20_000])
    (folder / "d.tar").write_bytes(b"")
    write_tar(folder / "e.tar", [])
    (folder / "f.tar").write_bytes(b"<html>not found</html>")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_all_that_is_wrong_in_shards_is_counted(stream, damaged, workers):
    data = stream(str(damaged), workers=workers, batch_size=2, epoch_steps=100, window=1000)
    reasons, used = Counter(), 0
    for batch in data.train_dataloader():
        data.advance(1)
        state = data.state_dict()["streams"][0]
        skips = unpack_skips(batch.extra["skipped"])
        used += len(batch.image)
        reasons.update(one.reason for one in skips)
        if workers == 0 and state[0][0][0][0] > 0:
            break  # the first turn is over
    assert used > 30
    if workers == 0:
        expected = {
            "not_an_image": 1,  # y
            "unsafe_name": 1,
            "duplicate_member": 1,
            "no_caption": 2,  # g, k
            "undecodable": 1,
            "bad_text": 1,
            "no_image": 1,  # j
            "duplicate_key": 1,
            "damaged_shard": 3,  # c, d, f
        }
        assert reasons.pop("missing_member") >= 1  # x, and c may end within a sample
        assert dict(reasons) == expected


def test_a_language_may_come_later_in_a_stream(stream, tmp_path):
    def spoken(number, language):
        told = json.dumps({"captions": [f"thing {number}"], "languages": [language]}).encode()
        return [(f"{number:05}.png", picture(number)), (f"{number:05}.json", told)]

    members = [member for number in range(300) for member in spoken(number, "de" if number > 290 else "en")]
    write_tar(tmp_path / "s.tar", members)
    options = {"caption": "captions", "language_column": "languages", "languages": ["de"]}
    batch = next(iter(stream(f"{tmp_path}/s.tar", **options).train_dataloader()))
    assert len(set(batch.concept.tolist())) == 4


def test_an_archive_beside_a_data_set_is_no_shard(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "a.txt").write_text("thing")
    write_tar(tmp_path / "backup.tar", sample(2))
    assert find_shards(str(tmp_path)) is None
