"""Arrow and parquet files with what is rare or wrong in them."""

from __future__ import annotations

from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.data.sharded import KEY
from clipkit.data.skips import Skipped
from clipkit.data.tables import file_shards

ROWS, BATCH = 9, 3


def table(**columns):
    paths, texts = [f"{i}.png" for i in range(ROWS)], [f"thing {i}" for i in range(ROWS)]
    return pa.table({"filepath": paths, "text": texts, **columns})


def write(path, rows, new=pa.ipc.new_stream):
    with pa.OSFile(str(path), "wb") as file, new(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=BATCH)
    return path


def read(path, shards=None):
    shards = shards or file_shards([str(path)], None)
    parts = list(shards.parts(0))
    found = list(chain.from_iterable(items for _, items in parts))
    for number, (begin, _) in enumerate(parts):
        assert list(chain.from_iterable(items for _, items in shards.parts(0, begin))) == found[number:]
    return found


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_a_damaged_batch_is_a_skip_and_no_end_of_the_process(tmp_path, new):
    """An offset that points beyond its column, of which reading takes no notice."""
    path = write(tmp_path / "a.arrow", table(), new)
    data = path.read_bytes()
    offsets = b"".join(i.to_bytes(4, "little") for i in (0, 7, 14, 21))  # of "thing 3" to "thing 5", among others
    place = data.index(offsets, data.index(offsets) + 1)
    path.write_bytes(data[: place + 4] + (0x7FFFFFF0).to_bytes(4, "little") + data[place + 8 :])
    found = read(path)
    bad = [item for item in found if isinstance(item, Skipped)]
    assert [(one.key, one.reason) for one in bad] == [("row 3", "damaged_shard")]
    assert "3 rows that are stored together are damaged" in bad[0].message
    assert [item[KEY] for item in found if isinstance(item, dict)] == [f"row {i}" for i in (0, 1, 2, 6, 7, 8)]


@pytest.mark.parametrize("where", ["between batches", "within one"])
def test_a_file_that_is_cut_off(tmp_path, where):
    path = write(tmp_path / "a.arrow", table(), pa.ipc.new_file)
    shards = file_shards([str(path)], None)
    last = [begin.byte for begin, _ in shards.parts(0)][-1]
    path.write_bytes(path.read_bytes()[: last if where == "between batches" else last + 100])
    found = read(path)
    assert [item["text"] for item in found[:-1]] == [f"thing {i}" for i in range(6)]
    assert isinstance(found[-1], Skipped) and found[-1].reason == "damaged_shard"


@pytest.mark.parametrize(
    "coded",
    [
        pa.array(["p", "q", "p"] * 3).dictionary_encode(),
        pa.ListArray.from_arrays(range(ROWS + 1), pa.array(["p", "q", "p"] * 3).dictionary_encode()),
    ],
    ids=["a column", "within lists"],
)
def test_columns_that_are_dictionary_coded(tmp_path, coded):
    found = read(write(tmp_path / "a.arrow", table(kind=coded)))
    assert [item["text"] for item in found] == [f"thing {i}" for i in range(ROWS)]
    assert [item["kind"] for item in found] == coded.to_pylist()


def test_a_text_that_is_not_utf_8(tmp_path):
    """In parquet it costs its row; a batch of Arrow is checked as a whole."""
    texts = pa.array([b"fine"] * 4 + [b"caf\xe9"] + [b"fine"] * 4)
    rows = table().drop_columns("text").append_column("text", texts.view(pa.string()))
    pq.write_table(rows, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [(one.key, one.reason) for one in found if isinstance(one, Skipped)] == [("row 4", "bad_text")]
    assert len(found) == ROWS
    found = read(write(tmp_path / "a.arrow", rows))
    assert [(one.key, one.reason) for one in found if isinstance(one, Skipped)] == [("row 3", "damaged_shard")]
    assert len(found) == ROWS - BATCH + 1
