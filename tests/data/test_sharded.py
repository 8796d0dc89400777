"""What is looked at of a stream beforehand: as many rows as are asked for, and no more memory than it may take."""

from __future__ import annotations

import pytest

from clipkit.data.head import head
from clipkit.data.sharded import KEY, SOURCE, TOP, Begin, row_bytes
from clipkit.data.skips import Skipped
from clipkit.data.tar_shards import TarShards

from .malformed import members, tar


class Counting:
    """A shard without an end, which counts what is read of it."""

    image, names = None, ["s"]

    def __init__(self, bad_every=0):
        self.read, self.bad_every = 0, bad_every

    def parts(self, shard, begin=TOP, columns=None):
        while True:
            self.read += 1
            bad = self.bad_every and self.read % self.bad_every == 0
            row = {SOURCE: "s", KEY: f"{self.read}", "txt": "0" * 100}
            yield Begin(self.read), [Skipped("s", f"{self.read}", "undecodable", "bad", None) if bad else row]


def test_no_more_is_read_than_is_asked_for():
    shards = Counting(bad_every=3)
    rows, left_out = head(shards, 10)
    assert len(rows) == 10 and shards.read == 14
    assert [one.key for one in left_out] == ["3", "6", "9", "12"]  # what comes behind the last row is no part of it


def test_columns_are_told_apart_by_few_rows_where_these_are_large():
    shards = Counting()
    rows, _ = head(shards, 256, most_bytes=1000)
    assert len(rows) == shards.read == 10


def test_a_text_that_is_too_large_is_no_column(tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.data.tar_shards.MOST_TEXT", 50)
    (tmp_path / "a.tar").write_bytes(tar([*members("a", txt=b"0" * 51), *members("b", txt=b"0" * 50)]))
    rows, _ = head(TarShards([str(tmp_path / "a.tar")]))
    assert rows["txt"][:] == [None, "0" * 50]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"12", 2),
        ("12", 2),
        ("\u00e9", 4),
        (None, 8),
        (5, 8),
        (["a", "bc", None], 11),
        ({"bytes": b"1", "path": "ab"}, 3),
    ],
)
def test_bytes_of_a_row(value, size):
    assert row_bytes(value) == size
