"""What is in a data set before anything is trained on it: what cannot be used, sizes, captions, duplicates."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray

from clipkit.data.captions import CaptionChoice, choose_captions
from clipkit.data.columns import image_column
from clipkit.data.near_duplicates import NearDuplicates, thumbnail
from clipkit.data.pack_chunk import content_hash
from clipkit.data.scan import Chunk, Usable, in_order, read_chunks, read_table, scan
from clipkit.data.skips import Skipped
from clipkit.tokens import Tokenizer

__all__ = ["Findings", "check"]

ROWS_PER_CHUNK = 128
MOST_CHARACTERS = 10_000  # of a caption, as the loader has it
MOST_LISTED = 1000
MOST_SHOWN = 24
MOST_TOKENS = 1 << 20


class Findings(NamedTuple):
    """What a check found.

    Attributes:
        report: Plain data, for JSON; what its keys hold is said in ``docs/data-tools.md``.
        width: (N,) of each image that can be used, in pixels.
        height: (N,) likewise.
        tokens: (M,) length of each caption, start and end included.
        pairs: Images of near-duplicates and which rows they are: (32, 32, 3) luma and chroma each.
    """

    report: dict[str, Any]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    tokens: NDArray[np.int64]
    pairs: list[tuple[int, NDArray[np.uint8], int, NDArray[np.uint8]]]


class _Image(NamedTuple):
    row: int
    width: int
    height: int
    digest: str
    thumbnail: NDArray[np.uint8]
    captions: list[str]


class _Checked(NamedTuple):
    read: int
    seconds: float
    images: list[_Image]
    tokens: list[int]
    skipped: list[Skipped]


def check(
    rows: Dataset | IterableDataset,
    source: str,
    tokenizer: str = "emoji",
    context_length: int = 77,
    image: str | None = None,
    caption: str | list[str] | None = None,
    near: bool = True,
    limit: int | None = None,
    workers: int | None = None,
    report: Callable[[int, Counter[str]], None] = lambda read, skipped: None,
) -> Findings:
    """Open every image and read every caption as the loader would.

    Args:
        rows: The data set, or a stream.
        source: What it was read from, for the report.
        tokenizer: As for ``clipkit.tokens.read_tokenizer``.
        context_length: Tokens that a model will take, start and end included.
        image: The image column; the first with images where none is given.
        caption: The caption columns; the first usual one where none is given.
        near: Whether to look for near-duplicates, which takes most of the time.
        limit: Stop after this many rows.
        workers: Processes; one a core where none is given; 0 works in this one.
        report: Told of the progress: rows read, rows skipped by reason.

    Raises:
        ArgumentError: For a column or a tokenizer that is not there, or a context with no room for a word.
    """
    Tokenizer(tokenizer, context_length)  # what is wrong with either is known before anything is read
    column, choice = image_column(rows, image), choose_captions(rows, caption)
    tally = _Tally(near, context_length)
    processes = (os.cpu_count() or 1) if workers is None else workers
    work = _CheckChunk(column, choice, tokenizer)
    for checked in in_order(work, read_chunks(rows, ROWS_PER_CHUNK, limit=limit), processes):
        tally.add(checked)
        report(tally.read, tally.reasons)
    settings = {"columns": list(choice.columns), "tokenizer": tokenizer[:200], "context_length": context_length}
    return tally.findings(source, settings, processes)


@dataclass(frozen=True)
class _CheckChunk:
    image: str
    choice: CaptionChoice
    tokenizer: str

    def __call__(self, chunk: Chunk) -> _Checked:
        began, images, skipped = time.perf_counter(), [], []
        table = read_table(chunk)
        for row in scan(table, chunk.first, self.image, self.choice):
            if isinstance(row, Usable):
                picture = row.image
                digest, thumb, number = content_hash(picture), thumbnail(picture), chunk.first + row.place
                images.append(_Image(number, picture.width, picture.height, digest, thumb, row.captions))
            else:
                skipped.append(row)
        tokens = _lengths(self.tokenizer, [text for image in images for text in image.captions])
        return _Checked(len(table), time.perf_counter() - began, images, tokens, skipped)


class _Tally:
    def __init__(self, near: bool, context_length: int) -> None:
        self.read, self.reasons = 0, Counter[str]()
        self._seconds, self._began = 0.0, time.perf_counter()
        self._context_length = context_length
        self._bad: list[Skipped] = []
        self._sizes: list[tuple[int, int]] = []
        self._per_row: list[int] = []
        self._tokens: list[int] = []
        self._captions: set[bytes] = set()
        self._repeated: dict[bytes, tuple[str, int]] = {}
        self._first: dict[str, int] = {}
        self._equal: dict[int, list[int]] = {}
        self._near = _Near() if near else None

    def add(self, checked: _Checked) -> None:
        self.read += checked.read
        self.reasons.update(skip.reason for skip in checked.skipped)
        self._seconds += checked.seconds
        self._bad += checked.skipped[: MOST_LISTED - len(self._bad)]
        self._tokens += checked.tokens
        for image in checked.images:
            self._sizes.append((image.width, image.height))
            self._per_row.append(len(image.captions))
            for text in image.captions:
                self._count(text)
            first = self._first.setdefault(image.digest, image.row)
            if first != image.row:
                self._equal.setdefault(first, [first]).append(image.row)
            elif self._near is not None:
                self._near.add(image.row, image.thumbnail)

    def _count(self, text: str) -> None:
        key = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
        if key in self._captions:
            _, seen = self._repeated.get(key, (text, 1))
            self._repeated[key] = text[:200], seen + 1
        self._captions.add(key)

    def findings(self, source: str, captions: dict[str, Any], processes: int) -> Findings:
        sizes, tokens = np.array(self._sizes, dtype=np.int64).reshape(-1, 2), np.array(self._tokens, dtype=np.int64)
        width, height = sizes.T
        report = {
            "source": source,
            "read": self.read,
            "used": len(sizes),
            "skipped": dict(self.reasons.most_common()),
            "bad_rows": [skip._asdict() for skip in self._bad],
            "images": {"width": _spread(width), "height": _spread(height), "aspect": _spread(width / height)},
            "captions": {**captions, **self._caption_figures(tokens)},
            "duplicates": {
                "equal_images": _groups(list(self._equal.values())),
                "near_duplicates": None if self._near is None else _groups(self._near.groups()),
            },
            "throughput": self._throughput(processes),
        }
        return Findings(report, width, height, tokens, [] if self._near is None else self._near.pairs)

    def _caption_figures(self, tokens: NDArray[np.int64]) -> dict[str, Any]:
        most = sorted(self._repeated.values(), key=lambda entry: (-entry[1], entry[0]))
        return {
            "captions": len(tokens),
            "per_row": _spread(np.array(self._per_row)),
            "tokens": _spread(tokens),
            "truncated": float((tokens > self._context_length).mean()) if len(tokens) else None,
            "repeats": sum(count - 1 for _, count in self._repeated.values()),
            "most_repeated": [{"caption": text, "times": count} for text, count in most[:10]],
        }

    def _throughput(self, processes: int) -> dict[str, Any]:
        wall, opened = time.perf_counter() - self._began, self.read / max(self._seconds, 1e-9)
        per_second = {"rows_per_second": round(self.read / max(wall, 1e-9), 1), "seconds": round(wall, 2)}
        return {**per_second, "processes": processes, "rows_per_second_and_process": round(opened, 1)}


class _Near:
    """Groups of near-duplicates: copies of copies are in one."""

    def __init__(self) -> None:
        self._index = NearDuplicates()
        self._rows: list[int] = []
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._group: list[int] = []
        self.pairs: list[tuple[int, NDArray[np.uint8], int, NDArray[np.uint8]]] = []

    def add(self, row: int, thumb: NDArray[np.uint8]) -> None:
        match = self._index.find(thumb)
        number = self._index.add(thumb)
        self._rows.append(row)
        self._thumbnails.append(thumb)
        self._group.append(number if match is None else self._group[match])
        if match is not None and len(self.pairs) < MOST_SHOWN:
            self.pairs.append((self._rows[match], self._thumbnails[match], row, thumb))

    def groups(self) -> list[list[int]]:
        members: dict[int, list[int]] = {}
        for row, group in zip(self._rows, self._group, strict=True):
            members.setdefault(group, []).append(row)
        return [rows for rows in members.values() if len(rows) > 1]


@lru_cache(maxsize=2)
def _tokenizer(name: str) -> Tokenizer:
    return Tokenizer(name, MOST_TOKENS)  # nothing is cut, so that the length of all of it is known


def _lengths(tokenizer: str, texts: Sequence[str]) -> list[int]:
    lengths: list[int] = []
    for begin in range(0, len(texts), 256):
        _, mask = _tokenizer(tokenizer)([text[:MOST_CHARACTERS] for text in texts[begin : begin + 256]])
        lengths += mask.sum(1).tolist()
    return lengths


def _groups(groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How many rows repeat an earlier one, and the rows of each group."""
    return {"rows": sum(len(rows) - 1 for rows in groups), "groups": list(groups[:MOST_LISTED])}


def _spread(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    names = ("min", "5%", "median", "95%", "max")
    return dict(zip(names, np.percentile(values, [0, 5, 50, 95, 100]).round(4).tolist(), strict=True))
