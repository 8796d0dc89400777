"""Data sets of the hub, through its real clients, from a stand-in on this machine; and folders of tars."""

from __future__ import annotations

import io
import zipfile

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.data import CaptionDataModule, load_rows, unpack_skips
from clipkit.data.sharded import TableShards
from clipkit.data.streams import find_shards, load_stream
from clipkit.types import ArgumentError

from .hub_server import COMMIT, Hub
from .malformed import members, picture, tar

pytestmark = pytest.mark.usefixtures("surroundings")

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: "first/*.tar"
  - split: held
    path: "second/*.tar"
---
"""


def shard(name, count=5):
    return tar([part for number in range(count) for part in members(f"{name}{number}")])


def table(begin, count=6):
    images = [{"bytes": picture(size=(9 + i, 8)), "path": None} for i in range(begin, begin + count)]
    file = pa.BufferOutputStream()
    rows = pa.table({"image": images, "text": [f"thing {i}" for i in range(begin, begin + count)]})
    pq.write_table(rows, file, row_group_size=2)
    return file.getvalue().to_pybytes()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b.png", picture())
    return file.getvalue()


SETS = {
    "some/tars": {
        "README.md": b"# Pictures",
        "info.json": b"{}",
        "data/train-0.tar": shard("a"),
        "data/train-1.tar": shard("b")[:8_000],
        "data/val-0.tar": shard("c"),
    },
    "some/carded": {"README.md": CARD.encode(), "first/0.tar": shard("d"), "second/0.tar": shard("e", 3)},
    "some/packed": {"data/0.tar.gz": b"", "data/1.tar.gz": b""},
    "some/zipped": {
        "data/train.zip": zipped(),
        "data/a.png": picture(),
        "data/metadata.csv": b"file_name,text\na.png,x\n",
    },
    "some/rows": {f"data/train-0000{i}-of-00003.parquet": table(6 * i) for i in range(3)}
    | {"data/validation-00000-of-00001.parquet": table(50, 4)},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, which all clients take for the hub."""
    server = Hub(SETS)
    address = f"http://127.0.0.1:{server.server_port}"
    template = "/{repo_id}/resolve/{revision}/{filename}"
    for module, name, value in (
        (huggingface_hub.constants, "ENDPOINT", address),
        (
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + template,
        ),
        (huggingface_hub.constants, "HF_HUB_OFFLINE", False),
        (huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache")),
        (datasets.config, "HF_ENDPOINT", address),
        (datasets.config, "HF_HUB_OFFLINE", False),
        (datasets.config, "HUB_DATASETS_URL", address + "/datasets/{repo_id}/resolve/{revision}/{path}"),
    ):
        monkeypatch.setattr(module, name, value)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield server
    server.shutdown()
    server.server_close()


def read(train, spec, **options):
    data = CaptionDataModule(train, **{"batch_size": 2, "workers": 0, "epoch_steps": 20, "window": 20, **options})
    data.inputs = spec
    batches = list(data.train_dataloader())
    skips = {(one.source, one.reason) for batch in batches for one in unpack_skips(batch.extra["skipped"])}
    return {row for batch in batches for row in batch.concept.tolist()}, skips


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_tars_of_the_hub_come_through_the_own_reader(hub, spec, streaming, workers):
    """What of a truncated one is whole is used, and the rest is told, as the library's reader would not."""
    used, skips = read("some/tars", spec, streaming=streaming, workers=workers)
    assert 5 < len(used) < 10
    assert skips == {("hf://datasets/some/tars/data/train-1.tar", "damaged_shard")}
    shards = find_shards("some/tars", streaming=streaming)
    assert shards.names == [f"hf://datasets/some/tars@{COMMIT}/data/train-{i}.tar" for i in range(2)]


def test_splits_of_tars_are_those_of_the_card_or_of_their_names(hub, spec):
    def names(source, split="train", **options):
        return [name.partition(COMMIT)[2] for name in find_shards(source, split, **options).names]

    assert names("some/tars", "validation") == names("some/tars:validation") == ["/data/val-0.tar"]
    assert names("some/carded") == ["/first/0.tar"] and names("some/carded:held") == ["/second/0.tar"]
    with pytest.raises(ArgumentError, match="'some/carded' has no split 'hold'; it has train, held: name one"):
        find_shards("some/carded:hold")
    data = CaptionDataModule("some/tars", val="some/tars", epoch_steps=5, batch_size=2, workers=0)
    assert len(data.val_rows) == 5
    with pytest.raises(ArgumentError, match="holds tar archives, which are streamed"):
        load_rows("some/tars")
    listed = find_shards("hf://datasets/some/tars/data/train-*.tar").names
    assert listed == [f"hf://datasets/some/tars/data/train-{i}.tar" for i in range(2)]
    assert next(iter(load_stream("some/tars")))["__source__"] == "hf://datasets/some/tars/data/train-0.tar"


def test_what_would_be_unpacked_is_refused(hub):
    with pytest.raises(ArgumentError, match=r"^train: .*/data/0.tar.gz' is compressed"):
        find_shards("some/packed")
    assert find_shards("some/zipped") is None
    with pytest.raises(ArgumentError, match=r"an archive, .*train\.zip, that would be unpacked to disk"):
        load_rows("some/zipped")
    with pytest.raises(ArgumentError, match="'some/nothing' is no file or folder here, and the hub gave none"):
        CaptionDataModule("some/nothing")


def test_a_table_of_the_hub_by_index_and_as_a_stream(hub, spec):
    assert load_rows("some/rows")["text"][:] == [f"thing {i}" for i in range(18)]
    assert len(load_rows("some/rows:validation")) == len(load_rows("some/rows", "validation")) == 4
    used, skips = read("some/rows", spec, streaming=True)
    assert len(used) == 18 and not skips


def test_a_run_on_tars_of_the_hub_goes_on_after_a_new_commit(hub, spec, monkeypatch):
    """The commit is in the addresses, and not in what tells one set of shards from another."""
    whole = CaptionDataModule("some/tars", epoch_steps=10, batch_size=2, workers=0)
    monkeypatch.setattr("tests.data.hub_server.COMMIT", "f" * 40)
    hub.sets = {**SETS, "some/tars": {**SETS["some/tars"], "README.md": b"# More of them"}}
    again = CaptionDataModule("some/tars", epoch_steps=10, batch_size=2, workers=0)
    assert again.training.sources["some/tars"].shards.names[0].startswith(f"hf://datasets/some/tars@{'f' * 40}/")
    assert whole.fingerprint == again.fingerprint


def test_tars_below_a_folder(tmp_path, spec):
    """As at its top: whatever the depth, and beside the files that image downloaders leave."""
    for name in ("deep/train/0.tar", "deep/er/train/1.tar", "val/0.tar"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(shard(name.replace("/", "-").removesuffix(".tar")))
        (tmp_path / "set" / name).with_suffix(".parquet").write_bytes(table(0))
    source = f"{tmp_path}/set"
    used, skips = read(source, spec)
    assert len(used) == 10 and not skips
    assert find_shards(source, "validation").names == [f"{source}/val/0.tar"]
    assert find_shards(f"{source}:validation").names == [f"{source}/val/0.tar"]
    with pytest.raises(ArgumentError, match="has no split 'test'; it has train, validation"):
        find_shards(f"{source}:test")
    (tmp_path / "set/README.md").write_text(CARD.replace("first/", "**/er/**/").replace("second", "val"))
    assert find_shards(source).names == [f"{source}/deep/er/train/1.tar"]
    assert find_shards(f"{source}:held").names == [f"{source}/val/0.tar"]


def test_a_folder_of_tables_with_an_archive_is_one_of_tables(tmp_path):
    (tmp_path / "set/old").mkdir(parents=True)
    (tmp_path / "set/old/backup.tar").write_bytes(shard("a"))
    for i in range(2):
        (tmp_path / f"set/train-{i}.parquet").write_bytes(table(6 * i))
    assert find_shards(f"{tmp_path}/set") is None
    assert len(load_rows(f"{tmp_path}/set")) == 12


@pytest.mark.parametrize("name", ["shard-0.tar", "shard-{0..1}.tar", "*.tar", "rows.parquet"])
def test_files_have_no_splits(own_folder, name):
    for i in range(2):
        (own_folder / f"shard-{i}.tar").write_bytes(shard("a"))
    (own_folder / "rows.parquet").write_bytes(table(0))
    with pytest.raises(ArgumentError, match=r"names files, none of which is a split 'val'"):
        CaptionDataModule(f"{name}:val", epoch_steps=3, streaming=name == "rows.parquet")
    if name == "rows.parquet":
        with pytest.raises(ArgumentError, match=r"names files, none of which is a split 'val'"):
            load_rows(f"{name}:val")


COLUMNS = {"pic": "image", "text": "string", "label": "string"}
SEMICOLONS = "---\nconfigs:\n- config_name: default\n  data_files: '*.csv'\n  sep: ';'\n---\n"
ROWS = 24


def test_a_card_that_says_what_columns_are_is_followed(tmp_path):
    (tmp_path / "train.csv").write_text("pic,text,label\n0.png,a,0\n")
    told = "".join(f"  - name: {name}\n    dtype: {kind}\n" for name, kind in COLUMNS.items())
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n{told}---\n")
    shards = find_shards(str(tmp_path), streaming=True)
    assert shards.image == "pic"
    ((_, (row,)),) = shards.parts(0)
    assert row["label"] == "0"


def test_a_card_that_says_how_to_read_is_followed(tmp_path):
    rows = "".join(f"{i}.png;thing {i};\n" for i in range(ROWS))
    (tmp_path / "a.csv").write_text(f"filepath;text;empty\n{rows}")
    (tmp_path / "README.md").write_text(SEMICOLONS)
    shards = find_shards(str(tmp_path), streaming=True)
    assert isinstance(shards, TableShards)
    whole = list(shards.parts(0))
    assert [row["text"] for _, (row,) in whole] == [f"thing {i}" for i in range(ROWS)]
    assert list(shards.parts(0, whole[9][0])) == whole[9:]
