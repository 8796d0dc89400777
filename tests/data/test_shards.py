"""Tar shards as Python's own tarfile writes them, whole and damaged."""

from __future__ import annotations

import io
import tarfile

import pytest

from clipkit.data.shards import ShardSample, read_shard
from clipkit.data.skips import REASONS, Skipped

from .malformed import tar


def read(data, **options):
    parts = list(read_shard(io.BytesIO(data), "a.tar", **options))
    for i, part in enumerate(parts):  # reading may begin at each
        file = io.BytesIO(data)
        file.seek(part.begin)
        assert list(read_shard(file, "a.tar", part.begin, **options)) == parts[i:]
    found = [one for part in parts for one in part.items]
    samples = [one for one in found if isinstance(one, ShardSample)]
    skips = [one for one in found if isinstance(one, Skipped)]
    assert {one.reason for one in skips} <= set(REASONS)
    return {one.key: one.members for one in samples}, [(one.reason, one.key) for one in skips]


def pairs(count, start=0):
    return [
        part
        for i in range(start, start + count)
        for part in ((f"{i:04}.jpg", bytes([i]) * (300 + i * 7)), (f"{i:04}.txt", f"thing {i}".encode()))
    ]


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("format", FORMATS)
def test_what_tarfile_writes(format):
    members = [*pairs(5), ("deep/er/a.b/x.seg.PNG", b"png"), ("deep/er/a.b/x.txt", b"")]
    samples, skips = read(tar(members, format))
    assert skips == []
    assert list(samples) == [*(f"{i:04}" for i in range(5)), "deep/er/a.b/x"]
    assert samples["0003"] == {"jpg": bytes([3]) * 321, "txt": b"thing 3"}
    assert samples["deep/er/a.b/x"] == {"seg.png": b"png", "txt": b""}


@pytest.mark.parametrize("format", FORMATS[1:])
def test_long_and_foreign_names(format):
    long = "d" * 120 + "/" + "ä" * 90
    samples, skips = read(tar([(f"{long}.jpg", b"1"), (f"{long}.txt", b"2"), *pairs(1)], format))
    assert list(samples) == [long, "0000"]
    assert skips == []


def test_a_prefix_of_the_old_format():
    name = "/".join(["folder" * 5] * 4) + "/x"
    samples, _ = read(tar([(f"{name}.jpg", b"1")], tarfile.USTAR_FORMAT))
    assert list(samples) == [name]


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 1023, 1024, 1500, 2048, 3000])
def test_a_truncated_shard_says_so_and_gives_what_there_is(cut):
    data = tar(pairs(4))
    end = sum(512 + -(-len(content) // 512) * 512 for _, content in pairs(4))  # before the closing blocks
    samples, skips = read(data[: end - cut])
    assert skips == [("damaged_shard", "")]
    whole = [key for key, members in samples.items() if len(members) == 2]
    assert whole == [f"{i:04}" for i in range(len(whole))]
    assert len(whole) >= 2


def test_cut_between_two_members():
    data = tar(pairs(2))
    samples, skips = read(data[:2048])  # 1024 bytes each for the first picture and its text
    assert list(samples) == ["0000"] and len(samples["0000"]) == 2
    assert skips == [("damaged_shard", "")]


def test_damaged_headers_do_not_cost_the_rest():
    data = bytearray(tar(pairs(6)))
    place = data.index(b"0002.jpg")
    data[place : place + 20] = b"\xff" * 20
    samples, skips = read(bytes(data))
    assert skips == [("damaged_shard", "")]
    assert [key for key, members in samples.items() if len(members) == 2] == ["0000", "0001", "0003", "0004", "0005"]
    assert list(samples["0002"]) == ["txt"]


def test_members_that_come_twice():
    twice = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"3"), ("b.jpg", b"4"), ("c.txt", b"6")]
    samples, skips = read(tar(twice))
    assert samples == {"a": {"jpg": b"1", "txt": b"3"}, "b": {"jpg": b"4"}, "c": {"txt": b"6"}}
    assert skips == [("duplicate_member", "a.jpg")]


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg"])
def test_names_that_lead_out(name):
    samples, skips = read(tar([(name, b"1"), *pairs(1)]))
    assert list(samples) == ["0000"]
    assert skips == [("unsafe_name", name)]


def test_links_are_not_followed_and_folders_are_nothing():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("x.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    samples, skips = read(file.getvalue())
    assert samples == {}
    assert skips == [("not_a_file", "x.jpg")] * 4


def test_large_members_are_passed_over_unread():
    members = [("a.jpg", b"1" * 5000), ("a.txt", b"2"), *pairs(1)]
    samples, skips = read(tar(members), most_bytes=1000)
    assert samples == {"a": {"txt": b"2"}, "0000": {"jpg": b"\0" * 300, "txt": b"thing 0"}}
    assert skips == [("too_large", "a.jpg")]


def test_a_sample_that_has_all_of_a_shard():
    """As where numbers follow a dot; only so much of it is kept."""
    samples, skips = read(tar([*((f"img.{i:03}.jpg", b"1" * 400) for i in range(6)), *pairs(1)]), most_bytes=1000)
    assert list(samples["img"]) == ["000.jpg", "001.jpg"] and "0000" in samples
    assert skips == [("too_large", f"img.{i:03}.jpg") for i in range(2, 6)]


def test_a_member_that_claims_to_be_enormous():
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    samples, skips = read(info.tobuf(tarfile.GNU_FORMAT) + b"little")
    assert samples == {}
    assert [reason for reason, _ in skips] == ["too_large", "damaged_shard"]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "damaged_shard"), (b"<html>" * 200, "damaged_shard"), (b"\0" * 9, "damaged_shard")]
)
def test_what_is_no_shard(data, reason):
    samples, skips = read(data)
    assert samples == {} and {found for found, _ in skips} == {reason}


def test_an_empty_shard():
    assert read(tar([])) == ({}, [])
    assert read(tar([("README", b"text"), ("LICENSE.md", b"text")]))[0] == {"LICENSE": {"md": b"text"}}


def test_every_flipped_byte_is_survived():
    data = tar(pairs(3), tarfile.USTAR_FORMAT)
    for place in range(0, len(data), 37):
        harmed = bytearray(data)
        harmed[place] ^= 0xFF
        samples, skips = read(bytes(harmed))
        assert len(samples) + len(skips) >= 3
