"""Files on other machines, by URL or pattern, read forwards: opened again at the place reached where that may help."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar, cast

import fsspec
from fsspec.asyn import sync

from clipkit.data.connections import Refused, Retry, file_system, is_served, patiently, public_name, scheme_of
from clipkit.data.local import open_file
from clipkit.data.patterns import expand_braces
from clipkit.data.skips import Unusable
from clipkit.types import ArgumentError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["USUAL", "Persistent", "Ranges", "Retry", "Source", "expand", "is_remote", "open_forwards", "public_name"]

T = TypeVar("T")
BLOCK = 8 << 20  # bytes; one request each, where a file comes in ranges
USUAL = Retry()
AGAIN = (408, 425, 429)  # of the 4xx, those that another time may answer otherwise
STATE = ("size", "ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime", "created")  # of a file


def is_remote(path: str) -> bool:
    """Whether a path is a URL that ``fsspec`` can read: ``https://...``, ``s3://...``, ``hf://...``, ``file://...``.

    Raises:
        ArgumentError: For ``train``, where it is a shell command (``pipe:``), a chain of file systems (``::``), which
            may unpack, cache or mount what nobody asked for, or has an unknown scheme.
    """
    scheme = scheme_of(path)
    if path.lower().startswith("pipe:"):
        raise ArgumentError("train", "'pipe:' runs a shell command, which no source of data may do; give a path or URL")
    if "://" in path and "::" in re.sub(r"//[^/]*\[[0-9a-fA-F:.]+\]", "//", path):  # an IPv6 host may have "::"
        raise ArgumentError("train", f"{public_name(path)!r} chains file systems with '::'; give a file's own URL")
    if scheme and scheme not in fsspec.available_protocols():
        message = f"nothing can read {scheme + '://'!r} in {public_name(path)!r}"
        raise ArgumentError("train", f"{message}; give a path or one of http, https, s3, gs, hf")
    return bool(scheme)


def expand(spec: str, retry: Retry = USUAL) -> list[str]:
    """The URLs that a pattern stands for, sorted.

    Braces are expanded here; ``*``, ``?`` and ``[...]`` are looked up where files can be listed. Whether a URL without
    those is there is seen when it is read.

    Args:
        spec: As in ``s3://bucket/{train,extra}-*.tar`` or ``https://host/shard-{000..127}.tar``.
        retry: How long to try to list files.

    Raises:
        ArgumentError: For ``train``, where a part matches nothing, files cannot be listed, or a package is missing.
    """
    found: set[str] = set()
    for part in expand_braces(spec):
        if not is_remote(part):
            raise ArgumentError("train", f"{part!r} in {public_name(spec)!r} is no URL")
        served = is_served(part)
        if served and "*" in part.partition("?")[0]:
            message = f"{public_name(part)!r}: a web server does not list its files"
            raise ArgumentError("train", f"{message}; name them with braces, as in shard-{{000..127}}.tar")
        found.update(_listed(part, retry) if not served and has_magic(part) else [part])
    return sorted(found)


def open_forwards(path: str, retry: Retry = USUAL, begin: int = 0, block: int | None = None) -> BinaryIO:
    """A file to be read from its beginning to its end.

    Nothing remote is opened before the first read, and then in the process that reads.

    Args:
        path: Of a local file, or a URL without wildcards.
        retry: How long to try. Where a connection breaks off, stalls or ends too early, the file is opened again where
            it was; one on a server that knows no ranges is read again up to there.
        begin: The byte to begin at.
        block: Bytes of a remote file asked for at once; None for 8 MB.

    Returns:
        A binary file with ``read`` and ``readline``; nothing can be written and nothing sought. Its ``read`` raises
        ``Unusable`` for ``refused_shard`` where a remote file is missing or forbidden, or became another one in
        between; for ``unreachable_shard`` where ``retry.attempts`` attempts in a row gave no byte. Where the server
        tells no length, a file that is cut off looks whole.

    Raises:
        OSError: Where a local file cannot be opened.
        ArgumentError: For ``train``, as in :func:`is_remote`, and where a package is missing.
    """
    if not is_remote(path):
        file = open_file(Path(path).expanduser())
        file.seek(begin)
        return file
    kind = _Stream if is_served(path) else Ranges
    raw = Persistent(lambda: kind(path, retry.timeout), path, retry, begin)
    return cast(BinaryIO, io.BufferedReader(raw, block or BLOCK))


class Source(Protocol):
    """Where bytes come from, which may fail."""

    def read(self, place: int, most: int) -> bytes:
        """Some bytes from a place on, none at the end; may raise anything."""

    def close(self) -> None:
        """Let go of connections, so that the next read makes new ones."""


class Persistent(io.RawIOBase):
    """A source that is asked again where it fails."""

    def __init__(self, make: Callable[[], Source], url: str, retry: Retry, begin: int) -> None:
        self.make, self.url, self.retry, self.place = make, url, retry, begin
        # By process: what a parent opened is dead in its fork, and to close it there would harm the parent.
        self.sources: dict[int, Source] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, into: Any) -> int:  # a writable buffer, which has a type of its own from Python 3.12 on
        """As many bytes as the source gives at once."""
        data = self._some(len(into))
        into[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """The rest; by default it would be asked for in pieces of 8 KB."""
        return b"".join(iter(lambda: self._some(BLOCK), b""))

    def _some(self, most: int) -> bytes:
        data = self.ask(lambda source: source.read(self.place, most))
        self.place += len(data)
        return data

    def ask(self, what: Callable[[Source], T]) -> T:
        """What the source answers, once it does."""
        source = self.sources.get(os.getpid()) or self.sources.setdefault(os.getpid(), self.make())

        def begin_again() -> str:
            source.close()
            return f" at byte {self.place}" if self.place else ""

        return patiently(lambda: what(source), self.url, self.retry, begin_again)

    def close(self) -> None:
        """Let go of the connections of this process."""
        if not self.closed and os.getpid() in self.sources:
            self.sources[os.getpid()].close()
        super().close()


class _Stream:
    """A file of a web server: one request that goes on as long as it can, then another from there."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url, timeout
        self.files: Any = None
        self.response: aiohttp.ClientResponse | None = None
        self.first: tuple[str | None, int | None] | None = None

    def read(self, place: int, most: int) -> bytes:
        self.files = file_system(self.url, self.timeout)
        return cast(bytes, sync(self.files.loop, self._read, place, most))

    def close(self) -> None:
        if self.response is not None:
            self.files.loop.call_soon_threadsafe(self.response.close)
        self.response = None

    async def _read(self, place: int, most: int) -> bytes:
        if self.response is None:
            session = await self.files.set_session()
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={place}-"} if place else {})
            self.response = await session.get(self.files.encode_url(self.url), headers=headers)
            await _pass_over(self.response, place - self._begins_at(self.response, place))
        return await _fill(self.response, most)

    def _begins_at(self, response: aiohttp.ClientResponse, place: int) -> int:
        answer = f"the server answered {response.status} {response.reason}"
        if response.status not in (200, 206):
            raise _failure(response.status, answer)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused("it is sent compressed, though asked for as it is")
        begin, total = 0, response.content_length
        if response.status == 206:
            told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if told is None or int(told[1]) != place:
                raise Refused(f"{answer}, but not the bytes from {place} on")
            begin, total = place, None if told[2] == "*" else int(told[2])
        now = (response.headers.get("ETag") or response.headers.get("Last-Modified"), total)
        self.first = self.first or now
        if any(None not in pair and pair[0] != pair[1] for pair in zip(self.first, now, strict=True)):
            raise Refused("it became another file while it was read")
        return begin


class Ranges:
    """A file of any other file system: a request for each block."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url, timeout
        self.file: Any = None
        self.size = 0
        self.first: list[Any] | None = None

    def read(self, place: int, most: int) -> bytes:
        """See :class:`Source`."""
        most = min(most, self.length() - place)
        if most <= 0:
            return b""
        self.file.seek(place)
        data: bytes = self.file.read(most)
        if not data:
            raise EOFError("it ends before its announced size")
        return data

    def close(self) -> None:
        """See :class:`Source`."""
        if self.file is not None:
            self.file.close()
        self.file = None

    def length(self) -> int:
        """How many bytes it has."""
        if self.file is None:
            self._open()
        return self.size

    def _open(self) -> None:
        files = file_system(self.url, self.timeout)
        path = files._strip_protocol(self.url)
        files.invalidate_cache()  # of listings, which would hide a change
        try:
            info = files.info(path)
        except FileNotFoundError as error:  # which fsspec says of all that goes wrong with a web server
            import aiohttp  # slow, and not everybody's

            cause = error.__cause__
            if isinstance(cause, aiohttp.ClientResponseError):
                cause = _failure(cause.status, f"the server answered {cause.status} {cause.message}")
            if is_served(self.url) and isinstance(cause, Exception):
                raise cause from None
            raise
        if info["size"] is None:
            raise Refused("the server does not say how long it is")
        state = [info.get(name) for name in STATE]
        self.first = self.first or state
        if state != self.first:
            raise Refused("it became another file while it was read")
        self.size = info["size"]
        self.file = files.open(path, "rb", block_size=BLOCK, cache_type="none")


def _failure(status: int, answer: str) -> Exception:
    return (Refused if 400 <= status < 500 and status not in AGAIN else ConnectionError)(answer)


async def _fill(response: aiohttp.ClientResponse, most: int) -> bytes:
    """What comes until ``most`` bytes are there or it fails: then what came before counts, and the next read fails."""
    parts: list[bytes] = []
    while (missing := most - sum(map(len, parts))) > 0:
        try:
            part = await response.content.read(missing)  # fails where there is less than was announced
        except Exception:
            if not parts:
                raise
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


async def _pass_over(response: aiohttp.ClientResponse, size: int) -> None:
    while size > 0:
        data = await response.content.read(min(size, 1 << 20))
        if not data:
            raise EOFError("it ends before the place reached")
        size -= len(data)


def _listed(pattern: str, retry: Retry) -> list[str]:
    try:
        files = file_system(pattern, retry.timeout)
        names = patiently(lambda: files.glob(files._strip_protocol(pattern)), pattern, retry)
    except Unusable as error:
        raise ArgumentError("train", f"files cannot be listed: {error}") from None
    if not names:
        raise ArgumentError("train", f"no file matches {public_name(pattern)!r}")
    return [files.unstrip_protocol(name) for name in names]
