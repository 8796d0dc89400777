"""Which rows of a stream were seen before: the same pixels and captions, the same pixels, or nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.data.near_duplicates import NearDuplicates

__all__ = ["DUPLICATES", "Duplicates", "Seen"]

DUPLICATES = ("rows", "images", "near", "none")
"""What is a duplicate: equal pixels and captions, equal pixels, nearly equal ones too, or nothing."""
REASONS = {"rows": "duplicate_row", "images": "duplicate_image", "near": "duplicate_image"}


class Seen(NamedTuple):
    """The earlier row that one repeats, and how: ``duplicate_row``, ``duplicate_image`` or ``near_duplicate``."""

    row: int
    reason: str


class Duplicates:
    """What was seen so far; each row is compared with those before it.

    Args:
        what: One of ``DUPLICATES``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: dict[bytes, int] = {}
        self._near = NearDuplicates() if what == "near" else None
        self._rows: list[int] = []  # of the near-duplicate index's entries

    def __call__(self, row: int, content_hash: str, thumbnail: NDArray[np.uint8] | None) -> Seen | None:
        """Look a row up, and remember it where it is new.

        Args:
            row: Its number.
            content_hash: See ``clipkit.data.pack_chunk.content_hash``.
            thumbnail: See ``clipkit.data.near_duplicates.thumbnail``; needed where near ones count.
        """
        if self._what == "none":
            return None
        key = bytes.fromhex(content_hash)
        if key in self._first:
            return Seen(self._first[key], REASONS[self._what])
        if self._near is not None and thumbnail is not None:
            if (match := self._near.find(thumbnail)) is not None:
                return Seen(self._rows[match], "near_duplicate")
            self._near.add(thumbnail)
            self._rows.append(row)
        self._first[key] = row
        return None

    def restore(self, rows: Sequence[int], hashes: Sequence[str], thumbnails: NDArray[np.uint8] | None) -> None:
        """Remember rows that were new when they were looked up."""
        self._first.update(zip(map(bytes.fromhex, hashes), rows, strict=True))
        if self._near is not None and thumbnails is not None:
            for thumbnail in thumbnails:
                self._near.add(thumbnail)
            self._rows += rows
