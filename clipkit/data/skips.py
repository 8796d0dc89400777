"""Samples that cannot be used: why, and how the news of them travels from a worker to the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["REASONS", "Skipped", "TooManyUnusable", "Unusable", "pack_skips", "reason_of", "unpack_skips"]

REASONS = (
    "no_image",  # nothing where the image should be
    "missing_file",  # a path with no file at its end
    "unreadable_file",  # a file that may not be read, or a disk that fails
    "not_an_image",  # an HTML page with a picture's name
    "too_large",  # more pixels than MOST_PIXELS, by its header, or a member of too many bytes
    "undecodable",  # truncated or damaged
    "unknown_range",  # pixels that are floats of no known range
    "no_caption",
    "bad_text",  # not UTF-8, or not text
    "bad_value",  # a column has no number, or no label, where it should
    "missing_member",  # a sample of a shard without an image
    "duplicate_member",
    "duplicate_key",
    "unsafe_name",  # a member whose name leads out of its shard
    "not_a_file",  # a link or a device in a shard
    "damaged_shard",  # a shard that is cut off, or damaged in between
    "unreachable_shard",  # a shard on another machine that was given up after several attempts
    "refused_shard",  # a shard on another machine that is missing or forbidden, or another file by now
)
MOST_PIXELS = 100_000_000
FEW = 16


class Unusable(ValueError):
    """A sample that cannot be used.

    Args:
        reason: One of ``REASONS``.
        message: What is wrong.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyUnusable(RuntimeError):
    """No usable row was found in the place of one that is not."""


class Skipped(NamedTuple):
    """One skipped sample.

    Attributes:
        source: Where it comes from: the file of its image, or which rows.
        key: Its row, or its name in a shard.
        reason: One of ``REASONS``.
        message: What is wrong, in words.
        sha256: Of the image's bytes, where there are any.
    """

    source: str
    key: str
    reason: str
    message: str
    sha256: str | None


def reason_of(error: Exception) -> str:
    """Which of ``REASONS`` an error of reading a sample is."""
    kinds: dict[type[Exception] | tuple[type[Exception], ...], str] = {
        UnidentifiedImageError: "not_an_image",
        Image.DecompressionBombError: "too_large",
        (FileNotFoundError, NotADirectoryError): "missing_file",
        (PermissionError, IsADirectoryError, ConnectionError, TimeoutError): "unreadable_file",
        UnicodeError: "bad_text",
    }
    if isinstance(error, Unusable):
        return error.reason
    of_the_system = isinstance(error, OSError) and error.errno is not None  # Pillow's own have no number
    other = "unreadable_file" if of_the_system else "undecodable"
    return next((reason for kind, reason in kinds.items() if isinstance(error, kind)), other)


def skipped(source: str, key: str, error: Exception, image: Any) -> Skipped:
    """What is kept of a sample that is left out.

    Args:
        source: See :class:`Skipped`.
        key: Likewise.
        error: What reading it raised.
        image: The image as it was read, undecoded: ``{"bytes", "path"}``, bytes or None.
    """
    data = image.get("bytes") if isinstance(image, dict) else image
    digest = hashlib.sha256(data).hexdigest() if isinstance(data, bytes | memoryview) else None
    message = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # Pillow says at which address of memory the bytes were
        message = "it is in no image format that can be read"
    return Skipped(source, key, reason_of(error), message, digest)


def pack_skips(skips: Sequence[Sequence[Skipped]]) -> Tensor:
    """(B, L) uint8 from what was skipped in each row's place: JSON, padded with zeros; L is 0 where nothing was.

    A batch carries tensors only, and its rows must stay with what was left out for them; a long list (of a shard that
    is all bad) is dealt out to all rows of the batch in order, since one alone would make as much padding of every row.
    """
    if max(map(len, skips), default=0) > FEW:
        every = [one for row in skips for one in row]
        skips = [every[i * len(every) // len(skips) : (i + 1) * len(every) // len(skips)] for i in range(len(skips))]
    texts = [json.dumps(row).encode() if row else b"" for row in skips]
    packed = np.zeros((len(texts), max(map(len, texts), default=0)), dtype=np.uint8)
    for place, text in zip(packed, texts, strict=True):
        place[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return torch.from_numpy(packed)


def unpack_skips(packed: Tensor) -> list[Skipped]:
    """What ``pack_skips`` packed, in order, over all rows."""
    texts = [bytes(row.tolist()).rstrip(b"\0") for row in packed.cpu()] if packed.shape[1] else []
    return [Skipped(*fields) for text in texts if text for fields in json.loads(text)]
