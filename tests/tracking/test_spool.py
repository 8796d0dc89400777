from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from clipkit.tracking.spool import RunCard, Spool, find_spools


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "x" / "run" / "spool")


def card(**changes):
    return RunCard(**{"uri": "u", "experiment": "x", "name": "n", "version": "run", "started": 1, **changes})


def records(spool):
    return [record for _, record in spool.read()]


def test_what_is_appended_is_read_in_order_until_advanced(spool):
    assert spool.read() == [] and spool.offset == 0
    for i in range(5):
        spool.append({"kind": "tags", "values": {"é": str(i)}})
    read = spool.read(3)
    assert [record["values"]["é"] for _, record in read] == ["0", "1", "2"]
    spool.advance(read[-1][0])
    assert [record["values"]["é"] for record in records(spool)] == ["3", "4"] and spool.left() == 2
    spool.advance(read[0][0])  # a sender that comes late
    assert spool.left() == 2


def test_a_half_written_line_waits_and_is_skipped_after_a_crash(spool):
    spool.append({"kind": "tags", "values": {}})
    spool.release()
    path = spool.folder / "records.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "me')
    assert len(spool.read()) == 1
    again = Spool(spool.folder)
    again.append({"kind": "tags", "values": {"a": "b"}})
    assert records(again) == [{"kind": "tags", "values": {}}, None, {"kind": "tags", "values": {"a": "b"}}]
    assert again.left() == 2


def test_card_comes_back_and_a_broken_one_is_none(spool):
    assert spool.card() is None
    spool.save_card(card(run_id="abc", resumed=2))
    assert spool.card() == card(run_id="abc", resumed=2)
    (spool.folder / "run.json").write_text("{")
    assert spool.card() is None


def _try_claim(folder, results):
    results.put(Spool(folder).claim())


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_one_process_at_a_time(spool):
    assert spool.claim() and spool.claim()
    assert not Spool(spool.folder).claim()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_try_claim, args=(spool.folder, results))
    process.start()
    assert results.get(timeout=30) is False
    process.join()
    spool.release()
    assert Spool(spool.folder).claim()


def test_held_files_outlive_the_original(spool, tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.tracking.spool._COPY_LIMIT", 10)
    text, small, large = tmp_path / "a.yaml", tmp_path / "b.png", tmp_path / "c.ckpt"
    text.write_text("password: hunter2\nname: the known one\n")
    small.write_bytes(b"small")
    large.write_bytes(b"x" * 100)
    held = [spool.folder / spool.keep(path, frozenset({"the known one"})) for path in (text, small, large)]
    assert os.stat(held[2]).st_ino == os.stat(large).st_ino  # a second name, not a second gigabyte
    for path in (text, small, large):
        path.unlink()
    assert held[0].read_text() == "password: [redacted]\nname: [redacted]\n"
    assert held[1].read_bytes() == b"small" and held[2].read_bytes() == b"x" * 100
    spool.drop(held[2].relative_to(spool.folder).as_posix())
    assert not held[2].exists()


def test_held_folders(spool, tmp_path):
    (tmp_path / "shards" / "inner").mkdir(parents=True)
    (tmp_path / "shards" / "inner" / "a.bin").write_bytes(b"1")
    (tmp_path / "shards" / "b.json").write_text('{"token": "abcdefgh"}')
    held = spool.folder / spool.keep(tmp_path / "shards", frozenset())
    assert (held / "inner" / "a.bin").read_bytes() == b"1"
    assert (held / "b.json").read_text() == '{"token": "[redacted]"}'


def test_find_spools(spool, tmp_path):
    assert list(find_spools(tmp_path / "nowhere")) == []
    spool.save_card(card())
    other = Spool(tmp_path / "a" / "b" / "spool")
    other.save_card(card())
    (tmp_path / "run.json").write_text("{}")
    assert list(find_spools(tmp_path)) == [other.folder, spool.folder]
    assert list(find_spools(spool.folder)) == [spool.folder]
