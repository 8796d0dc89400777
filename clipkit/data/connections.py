"""How other machines are reached through ``fsspec``: a client for each process, and patience where it may help."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import fsspec
from huggingface_hub.errors import OfflineModeIsEnabled

from clipkit.data.skips import Unusable
from clipkit.types import ArgumentError

__all__ = [
    "Refused",
    "Retry",
    "file_system",
    "in_one_line",
    "is_served",
    "kind_of",
    "patiently",
    "public_name",
    "scheme_of",
]

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_T = TypeVar("_T")

log = logging.getLogger("clipkit.data")


class Retry(NamedTuple):
    """How long to try.

    Attributes:
        attempts: Failures in a row, without a byte in between, after which a file is given up.
        first_wait: Seconds before the second attempt; each further wait is twice as long.
        most_wait: The longest wait in seconds.
        timeout: Seconds without an answer, or without a byte, that are a failure.
    """

    attempts: int = 5
    first_wait: float = 0.5
    most_wait: float = 10.0
    timeout: float = 60.0


class Refused(Exception):
    """An answer that would be the same the next time."""


FINAL = (Refused, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, OfflineModeIsEnabled)


def scheme_of(path: str) -> str:
    """``s3`` of ``s3://bucket/key``, "" of a local path."""
    found = re.match(r"([a-z][a-z0-9+.-]*)://", path, re.IGNORECASE)
    return found[1].lower() if found else ""


def public_name(path: str) -> str:
    """A path or URL without what only its owner may know: user and password, and the query that signs it.

    Without the commit of a hub's file, too: a new one may change no more than the card.
    """
    name = re.sub(r"(?<=://)[^/?#]*@", "", path)
    name = re.sub(r"(?<=^hf://datasets/)([^/@]+/[^/@]+)@[0-9a-f]{40}(?=/)", r"\1", name)
    return re.sub(r"[?#].*", "", name, flags=re.DOTALL) if scheme_of(path) in ("http", "https") else name


def is_served(url: str) -> bool:
    """Whether a URL is that of a web server.

    Raises:
        ArgumentError: As in :func:`kind_of`.
    """
    kind_of(url)
    return scheme_of(url) in ("http", "https")


def kind_of(url: str) -> type[Any]:
    """The class of a URL's file system.

    Raises:
        ArgumentError: For ``train``, where its package is not installed.
    """
    scheme = scheme_of(url)
    try:
        return cast(type[Any], fsspec.get_filesystem_class(scheme))
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        what = f"pip install clipkit-experiments[{extra}]" if extra else str(error)
        message = f"{public_name(url)!r} needs a package that is not installed: {what}"
        raise ArgumentError("train", message) from None


def file_system(url: str, timeout: float) -> Any:
    """The file system of a URL, as of this process.

    Args:
        url: Which one, and options where its kind takes them from there.
        timeout: Seconds without an answer or a byte that are a failure.
    """
    return _client(os.getpid(), scheme_of(url), timeout, tuple(kind_of(url)._get_kwargs_from_urls(url).items()))


@functools.cache
def _client(process: int, scheme: str, timeout: float, told: tuple[tuple[str, Any], ...]) -> Any:
    """One client a process. That of its parent stays here untouched.

    ``fsspec`` would drop it in a forked process, which waits a second there and closes connections that the parent
    still uses.
    """
    import aiohttp  # a quarter of a second, for those who read from elsewhere

    pauses = aiohttp.ClientTimeout(total=None, connect=timeout, sock_connect=timeout, sock_read=timeout)
    attempts = {"total_max_attempts": 1}  # those of the libraries below would multiply with ours
    options: dict[str, dict[str, Any]] = {
        "http": {"client_kwargs": {"timeout": pauses, "trust_env": True}},
        "s3": {"config_kwargs": {"connect_timeout": timeout, "read_timeout": timeout, "retries": attempts}},
        "gs": {"requests_timeout": timeout},
    }
    name = {"https": "http"}.get(scheme, EXTRAS.get(scheme, scheme))
    files = fsspec.get_filesystem_class(scheme)(skip_instance_cache=True, **{**dict(told), **options.get(name, {})})
    if name == "s3":
        files.retries = 1
    return files


def patiently(attempt: Callable[[], _T], url: str, retry: Retry, after: Callable[[], str] = lambda: "") -> _T:
    """What an attempt returns, once one does not fail.

    Args:
        attempt: May raise anything.
        url: What it is about.
        retry: How often, and how long to wait in between.
        after: Called after each failure; what it returns follows the URL in messages.

    Raises:
        Unusable: For ``unreachable_shard``, where the last attempt allowed failed; for ``refused_shard``, where another
            would fail alike.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except Exception as error:  # each file system has errors of its own
            failures += 1
            name, reason = public_name(url) + after(), in_one_line(error, url)
            # Without the cause: its text may hold the URL as it was given, password and all.
            if isinstance(error, FINAL):
                raise Unusable("refused_shard", f"{name}: {reason}") from None
            if failures >= retry.attempts:
                message = f"{name}: given up after {failures} attempts in a row; the last: {reason}"
                raise Unusable("unreachable_shard", message) from None
            wait = min(retry.first_wait * 2 ** (failures - 1), retry.most_wait)
            log.warning("%s: %s; again in %g s", name, reason, wait)
        time.sleep(wait)


def in_one_line(error: Exception, url: str) -> str:
    """The error in one line, without what :func:`public_name` leaves out."""
    kind = "" if isinstance(error, Refused) else type(error).__name__
    if isinstance(error, asyncio.TimeoutError):
        kind = "no answer in time"
    text = " ".join(str(error).replace(url, public_name(url)).split())
    text = _URL.sub(lambda found: public_name(found[0]), text)[:300]
    return ": ".join(part for part in (kind, text) if part)
