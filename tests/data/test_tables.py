"""Files of rows as shards: what is read again on resume, and what becomes of those that cannot be read."""

from __future__ import annotations

import json
import re
from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from clipkit.data import CaptionDataModule
from clipkit.data.sharded import KEY, TOP, Begin, IndexedShards
from clipkit.data.skips import Skipped
from clipkit.data.streams import find_shards
from clipkit.data.tables import FileShards, file_shards
from clipkit.types import ArgumentError

from .malformed import picture
from .servers import braced, read_epoch

ROWS, GROUP = 24, 6
pytestmark = pytest.mark.usefixtures("surroundings")


def rows_of(begin, end, weight=0):
    """Each picture is of another size, and of many bytes where a weight is given."""
    images = []
    for number in range(begin, end):
        noise = np.random.default_rng(number).bytes(weight)
        images.append({"bytes": picture(size=(9 + number, 8)) + noise, "path": None})
    heavy = [np.random.default_rng(-number % 99).bytes(weight) for number in range(begin, end)]
    return pa.table({"image": images, "text": [f"thing {i}" for i in range(begin, end)], "unwanted": heavy})


def parquet(begin, end, group=GROUP, weight=0):
    file = pa.BufferOutputStream()
    pq.write_table(rows_of(begin, end, weight), file, row_group_size=group, compression="none")
    return file.getvalue().to_pybytes()


def arrow(begin, end, group=GROUP, weight=0, new=pa.ipc.new_stream, **options):
    file, rows = pa.BufferOutputStream(), rows_of(begin, end, weight)
    with new(file, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows, max_chunksize=group)
    return file.getvalue().to_pybytes()


def lines(kind):
    """A file of paths, texts and a column of so many bytes."""

    def made(begin, end, weight=0):
        rows = [{"filepath": f"{i}.png", "text": f"thing {i}", "unwanted": "x" * weight} for i in range(begin, end)]
        if kind == "jsonl":
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        separator = {"csv": ",", "tsv": "\t"}[kind]
        return "".join(separator.join(row) + "\n" for row in [rows[0], *(row.values() for row in rows)]).encode()

    return made


FORMATS = {
    "a.parquet": parquet,
    "stream.arrow": arrow,
    "file.arrow": partial(arrow, new=pa.ipc.new_file),
    "packed.arrow": partial(arrow, compression="lz4"),
    "a.csv": lines("csv"),
    "a.tsv": lines("tsv"),
    "a.jsonl": lines("jsonl"),
    "a.json": lines("jsonl"),
}


def items(shards, shard=0, begin=TOP, columns=("image", "text")):
    return [(at, item) for at, found in shards.parts(shard, begin, list(columns)) for item in found]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("where", ["here", "served"])
def test_rows_from_anywhere_on_are_those_of_the_whole(serve, running, tmp_path, where, name):
    data = FORMATS[name](0, ROWS, weight=20_000)
    (tmp_path / name).write_bytes(data)
    shards = file_shards([str(tmp_path / name)] if where == "here" else serve({f"fine/{name}": data}), None)
    whole = items(shards)
    assert [item["text"] for _, item in whole] == [f"thing {i}" for i in range(ROWS)]
    assert [item[KEY] for _, item in whole] == [f"row {i}" for i in range(ROWS)]
    if shards.image == "image":
        assert whole[5][1]["image"]["bytes"] == rows_of(5, 6, 20_000)["image"][0]["bytes"].as_py()
    else:
        assert whole[5][1]["filepath"]["path"].endswith("/5.png")
    for number, (begin, _) in list(enumerate(whole))[:: 1 if where == "here" else 5]:
        assert items(shards, begin=begin) == whole[number:]
        behind = items(shards, begin=begin._replace(within=begin.within + 1))  # where a shard broke off
        assert [item for _, item in behind] == [item for _, item in whole[number + 1 :]]


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith((".parquet", ".arrow"))])
def test_on_from_the_last_row_no_more_is_downloaded_than_its_group(serve, running, name):
    weight = 200_000
    shards = file_shards(serve({f"fine/{name}": FORMATS[name](0, ROWS, weight=weight)}), None)
    begin, last = items(shards)[-1]
    running.sent.clear()
    assert [item for _, item in items(shards, begin=begin)] == [last]
    columns = 2 if name.endswith(".arrow") else 1  # a batch is read with those that nobody wants
    assert columns * GROUP * weight < running.sent[f"/fine/{name}"] < 1.1 * columns * GROUP * weight + 100_000


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.endswith((".parquet", ".arrow"))])
def test_on_from_a_row_lines_are_asked_for_from_there(serve, running, name):
    """And of CSV the header, of which the reader lets go at once."""
    shards = file_shards(serve({f"fine/{name}": FORMATS[name](0, ROWS)}), None)
    begin, last = items(shards)[-1]
    running.gets.clear()
    assert [item for _, item in items(shards, begin=begin)] == [last]
    assert running.gets[f"/fine/{name}"] == [0] * name.endswith(("csv", "tsv")) + [begin.byte]


def test_what_lies_before_is_not_downloaded_again(serve, running):
    """Nor the columns that nobody wants; the footer is, and what is left of a row group."""
    shards = file_shards(serve({"fine/a.parquet": parquet(0, ROWS, weight=60_000)}), None)

    def sent(begin, columns=("image", "text")):
        running.sent.clear()
        assert len(items(shards, begin=Begin(0, 0, begin), columns=columns)) == ROWS - begin
        return running.sent["/fine/a.parquet"]

    picture_bytes = 60_000 * ROWS  # and the last 64 KB, of which the footer is a part
    assert picture_bytes < sent(0) < 1.1 * picture_bytes
    assert 2 * picture_bytes < sent(0, columns=("image", "text", "unwanted")) < 2.1 * picture_bytes
    assert picture_bytes * GROUP / ROWS < sent(ROWS - 1) < 0.35 * picture_bytes  # the last group, from its first row
    assert 0.5 * picture_bytes < sent(2 * GROUP) < 0.6 * picture_bytes


@pytest.fixture
def module(make):
    """``module(source, ...)``: a small stream, unless told otherwise."""

    def made(source, **options):
        return make(source, **{"batch_size": 2, "epoch_steps": 30, "window": 5, **options})

    return made


def csv_of(begin, end, tmp_path):
    for i in range(begin, end):
        (tmp_path / f"{i}.png").write_bytes(picture(size=(9 + i, 8)))
    return "".join(["filepath,text\n", *(f"{tmp_path}/{i}.png,thing {i}\n" for i in range(begin, end))]).encode()


def jsonl_of(begin, end, tmp_path):
    csv_of(begin, end, tmp_path)
    rows = [{"filepath": f"{tmp_path}/{i}.png", "text": f"thing {i}"} for i in range(begin, end)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


MADE = {"parquet": lambda begin, end, _: parquet(begin, end), "csv": csv_of, "jsonl": jsonl_of}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("first", [True, False])
def test_a_missing_table_is_a_skip_like_a_missing_tar(serve, module, tmp_path, kind, workers, first):
    names = [f"fine/{i}.{kind}" for i in range(4)]
    names.insert(0 if first else 2, f"missing/x.{kind}")
    files = {name: MADE[kind](6 * i, 6 * i + 6, tmp_path) for i, name in enumerate(names)}
    used, skips = read_epoch(module(braced(serve(files)), workers=workers))
    assert len(used) == 24
    assert skips == {(f"missing/x.{kind}", "refused_shard")}


@pytest.mark.parametrize("kind", MADE)
def test_nothing_but_missing_tables_is_refused_at_once(serve, kind):
    address = serve({f"missing/0.{kind}": b""})[0].replace("0.", "{0..4}.")
    with pytest.raises(ArgumentError, match=rf"^train: 'http.*missing/0\.{kind}' cannot be read: .*"):
        CaptionDataModule(address, epoch_steps=3)


@pytest.mark.parametrize("behaviour", ["never", "hangup"])
def test_a_table_that_stalls_is_a_counted_skip_for_two_workers(serve, module, behaviour):
    names = [f"{behaviour}/0.parquet", *(f"fine/{i}.parquet" for i in range(4))]
    addresses = serve({name: parquet(6 * i, 6 * i + 6) for i, name in enumerate(names)})
    used, skips = read_epoch(module(braced(addresses), workers=2))
    assert len(used) == 24
    assert skips == {(f"{behaviour}/0.parquet", "unreachable_shard")}


@pytest.mark.parametrize("behaviour", ["busy", "cutonce", "reset"])
def test_a_table_is_asked_for_again(serve, behaviour):
    shards = file_shards(serve({f"{behaviour}/a.parquet": parquet(0, ROWS)}), None)
    assert [item["text"] for _, item in items(shards)] == [f"thing {i}" for i in range(ROWS)]


def test_credentials_of_an_address_are_in_no_message(serve, module):
    address = serve({"missing/a.parquet": b""})[0].replace("://", "://me:swordfish@")
    with pytest.raises(ArgumentError, match=r"^train: .*127\.0\.0\.1:\d+/missing/a\.parquet") as refused:
        read_epoch(module(address))
    assert "swordfish" not in str(refused.value)


def test_a_server_without_ranges_is_told(serve):
    shards = file_shards(serve({"fine/a.parquet": parquet(0, 6), "plain/b.parquet": parquet(0, 6, weight=9000)}), None)
    (_, told), = items(shards, 1)  # fmt: skip
    assert isinstance(told, Skipped) and told.reason == "unreachable_shard"


def test_an_arrow_file_by_index_and_as_a_stream(module, tmp_path):
    for part in (0, 1):
        table = Dataset(rows_of(9 * part, 9 * part + 9)).cast_column("image", datasets.Image()).data.table
        with pa.OSFile(f"{tmp_path}/{part}.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    source = f"{tmp_path}/*.arrow"
    assert find_shards(source) is None
    by_index = module(source, epoch_steps=None, batch_size=9)
    assert len(by_index.train_rows) == 18
    assert sorted(by_index.train_rows["text"]) == sorted(f"thing {i}" for i in range(18))
    assert len(list(by_index.train_dataloader())) == 2
    used, skips = read_epoch(module(source, streaming=True))
    assert len(used) == 18 and not skips


@pytest.mark.parametrize("kind", MADE)
def test_a_resumed_stream_of_tables_goes_on_with_the_next_row(module, tmp_path, kind):
    for part in range(3):
        (tmp_path / f"{part}.{kind}").write_bytes(MADE[kind](8 * part, 8 * part + 8, tmp_path))
    source = f"{tmp_path}/*.{kind}"

    def shown(data):
        found = []
        for batch in data.train_dataloader():
            data.advance(1)
            found.append((batch.concept.tolist(), batch.image.sum().item(), batch.position.tolist()))
            states.append(data.state_dict())
        return found

    states = []
    whole = shown(module(source, streaming=True))
    kept = list(states)
    for after in (1, 4, 9, 17):
        again = module(source, streaming=True)
        again.load_state_dict(kept[after - 1])
        assert shown(again)[: 30 - after] == whole[after:]


def test_kinds_that_do_not_go_together():
    with pytest.raises(ArgumentError, match=re.escape(".csv, .parquet: give files of one of the kinds .tar, .parquet")):
        file_shards(["a.csv", "b.parquet"], None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_of_files_of_rows_is_their_files(tmp_path, name):
    """As a data set of the hub is; only where a card says how to read them, the library must."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / f"train-{name}").write_bytes(FORMATS[name](0, ROWS))
    shards = find_shards(str(tmp_path / "set"), streaming=True)
    assert isinstance(shards, FileShards) and shards.names == [str(tmp_path / "set" / f"train-{name}")]
    assert [item["text"] for _, item in items(shards)] == [f"thing {i}" for i in range(ROWS)]


def test_json_lines_by_both_their_names(tmp_path):
    (tmp_path / "train-a.json").write_bytes(lines("jsonl")(0, 4))
    (tmp_path / "train-b.jsonl").write_bytes(lines("jsonl")(4, 9))
    shards = find_shards(str(tmp_path), streaming=True)
    texts = [item["text"] for number in range(2) for _, item in items(shards, number)]
    assert texts == [f"thing {i}" for i in range(9)]


def test_rows_with_an_index_are_read_from_anywhere_on(tmp_path):
    Dataset(rows_of(0, 200)).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "set")
    shards = find_shards(str(tmp_path / "set"), streaming=True)
    assert isinstance(shards, IndexedShards)
    every = [items(shards, number) for number in range(len(shards.names))]
    assert [item["text"] for part in every for _, item in part] == [f"thing {i}" for i in range(200)]
    assert set(every[0][0][1]) == {"__key__", "__source__", "image", "text"}
    assert every[7][1][1]["image"]["bytes"] == picture(size=(9 + int(every[7][1][1]["text"].split()[1]), 8))
    for number, (begin, _) in enumerate(every[7]):
        assert items(shards, 7, begin) == every[7][number:]
