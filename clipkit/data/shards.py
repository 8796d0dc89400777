"""Samples from tar shards (webdataset's layout), read as a stream: nothing is extracted, run or lost in silence.

The ``datasets`` library's reader drops the rest of a truncated shard without a word, ends the stream at a member that
comes twice, and refuses a shard whose first samples miss one; so this one reads the archive's blocks itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from clipkit.data.skips import Skipped

__all__ = ["ShardPart", "ShardSample", "read_shard"]

BLOCK = 512
ZEROS = bytes(BLOCK)
MOST_BYTES = 256 << 20


class ShardSample(NamedTuple):
    """One sample of a shard.

    Attributes:
        shard: Name of the shard.
        key: What its members' names share.
        members: What follows the first dot of each name, lower-case, to its content.
    """

    shard: str
    key: str
    members: dict[str, bytes]


class ShardPart(NamedTuple):
    """What stands together in a shard, so that reading can begin before it or after it.

    Attributes:
        begin: The byte at which it begins.
        items: A sample, what was left out, or both.
    """

    begin: int
    items: list[ShardSample | Skipped]


class _Member(NamedTuple):
    name: str
    data: bytes


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


class _Counted:
    """A file that knows how far it is read, as a stream may not."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self.file, self.at = file, at

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.at += len(data)
        return data


def read_shard(file: BinaryIO, shard: str, begin: int = 0, most_bytes: int = MOST_BYTES) -> Iterator[ShardPart]:
    """The samples of a shard in order, with what had to be left out in its place.

    Members whose names agree up to the first dot of the last part are one sample, if they follow one another. Where
    blocks are damaged the next intact header is looked for, so that what follows is not lost.

    Args:
        file: An uncompressed tar archive, read forwards only; it stands at ``begin``.
        shard: Its name, for reports.
        begin: Where reading begins: 0, or the ``begin`` of a part.
        most_bytes: Largest member that is read, and the most that is kept of a sample; more is passed over.
    """
    sample, part, kept = ShardSample(shard, "", {}), ShardPart(begin, []), 0
    for at, found in _members(_Counted(file, begin), shard, most_bytes):
        if isinstance(found, Skipped):
            part.items.append(found)
            continue
        key, suffix = _split(found.name)
        if not suffix:
            continue  # a file beside the samples, such as a README
        if key != sample.key:
            if part.items:
                yield part
            sample = ShardSample(shard, key, {})
            part, kept = ShardPart(at, [sample]), 0
        if suffix in sample.members:
            message = "its sample has a member of that name already"
            part.items.append(Skipped(shard, found.name, "duplicate_member", message, None))
        elif kept + len(found.data) > most_bytes:  # as where numbers follow a dot: all of a shard is one sample
            message = f"its sample has {kept} bytes already; what stands before the first dot is a sample's key"
            part.items.append(Skipped(shard, found.name, "too_large", message, None))
        else:
            sample.members[suffix] = found.data
            kept += len(found.data)
    if part.items:
        yield part


def _split(name: str) -> tuple[str, str]:
    """``a/b.seg.png`` to ``a/b`` and ``seg.png``."""
    found = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", name)
    return (found[1], found[2].lower()) if found else (name, "")


def _members(file: _Counted, shard: str, most_bytes: int) -> Iterator[tuple[int, _Member | Skipped]]:
    """Members and what was left out, with the byte at which each begins."""
    name: str | None = None  # of a record that only says the next one's long name
    begin, lost = file.at, False
    while True:
        begin = file.at if name is None else begin
        block = file.read(BLOCK)
        if block == ZEROS and not lost:  # among damaged blocks it may be a part of a picture
            return
        if len(block) < BLOCK:
            if not lost:
                yield begin, _damage(shard, "it ends before its closing blocks")
            return
        header = _header(block)
        if header is None:
            if not lost:
                yield begin, _damage(shard, "a header is damaged; what follows up to the next one is passed over")
            lost = True
            continue
        lost = False
        padded = -(-header.size // BLOCK) * BLOCK
        if header.size > most_bytes:
            yield begin, Skipped(shard, name or header.name, "too_large", f"{header.size} bytes", None)
            data = _pass_over(file, padded)
        else:
            data = file.read(padded)
        if len(data) < header.size and header.size <= most_bytes:
            yield begin, _damage(shard, f"it ends within {name or header.name!r}")
            return
        told = _told_name(header, data)
        if told is None and header.size <= most_bytes:
            found = _regular(shard, name or header.name, header, data)
            yield from [] if found is None else [(begin, found)]
        name = told


def _regular(shard: str, name: str, header: _Header, data: bytes) -> _Member | Skipped | None:
    if header.kind in b"12346":
        return Skipped(shard, name, "not_a_file", "a link or a device; nothing of the kind is followed", None)
    if header.kind not in b"\x000789" or name.endswith("/"):
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return Skipped(shard, name, "unsafe_name", "its name leads out of the shard", None)
    return _Member(str(path), data[: header.size])


def _told_name(header: _Header, data: bytes) -> str | None:
    """The name that a GNU or PAX record gives to the next one; "" for a record that says something else."""
    text = data[: header.size]
    if header.kind == b"L":
        return text.rstrip(b"\0").decode("utf-8", "replace")
    if header.kind in b"xgK":
        found = re.search(rb"\d+ path=([^\n]*)\n", text) if header.kind == b"x" else None
        return found[1].decode("utf-8", "replace") if found else ""
    return None


def _header(block: bytes) -> _Header | None:
    """A header whose checksum is right, else None."""
    try:
        told = int(block[148:156].rstrip(b"\0 ") or b"0", 8)
        size = _number(block[124:136])
    except ValueError:
        return None
    if told != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) or size < 0:
        return None
    name, prefix = (part.split(b"\0", 1)[0] for part in (block[:100], block[345:500]))
    if prefix and block[257:262] == b"ustar" and block[262:264] != b" \0":  # GNU's own format has times there
        name = prefix + b"/" + name
    return _Header(name.decode("utf-8", "replace"), size, block[156:157])


def _number(field: bytes) -> int:
    """Octal digits, or from 8 GB on a big-endian number with its first bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.rstrip(b"\0 ") or b"0", 8)


def _pass_over(file: _Counted, size: int) -> bytes:
    while size > 0 and (read := len(file.read(min(size, 1 << 20)))):
        size -= read
    return b""


def _damage(shard: str, message: str) -> Skipped:
    return Skipped(shard, "", "damaged_shard", message, None)
