"""Stable hashes: concept ids, a row's side of a split, the fingerprint of a data set; the same on every machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from clipkit.data.columns import stored
from clipkit.data.packed import packed_fingerprint

__all__ = ["concept_ids", "fingerprint", "hold_out", "stable_id"]

EDGE = 1024


def stable_id(value: Any) -> int:
    """A 63-bit id of a value; integers are their own."""
    if isinstance(value, int | np.integer):
        return int(value)
    return (
        int.from_bytes(hashlib.blake2b(str(value).encode(errors="surrogatepass"), digest_size=8).digest(), "big") >> 1
    )


def concept_ids(rows: Dataset, column: str) -> NDArray[np.int64]:
    """(N,) the stable id of each row's value in a column of strings or numbers."""
    values = stored(rows, column).combine_chunks()
    if pa.types.is_integer(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)
    encoded = values.dictionary_encode()
    ids: NDArray[np.int64] = np.array([stable_id(value) for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    return ids[np.asarray(encoded.indices, dtype=np.int64)]


def hold_out(rows: Dataset, fraction: float, image: str) -> tuple[Dataset, Dataset]:
    """Split by a hash of each image, so that added rows change no other row's side.

    An image in the data goes by its length, first and last bytes, a file by its name; equal images stay together.

    Args:
        rows: All rows.
        fraction: Share of the second part; more of it takes rows from the first part only.
        image: The image column.

    Returns:
        Training rows and validation rows.
    """
    share = np.fromiter((_share(key) for key in _keys(rows, image)), dtype=np.float64, count=len(rows))
    return rows.select(np.flatnonzero(share >= fraction)), rows.select(np.flatnonzero(share < fraction))


def fingerprint(rows: Dataset, sample: int = 256) -> str:
    """16 hex digits that tell one data set from another: its size, columns and an even sample of its rows.

    Images count by their bytes, wherever they lie. A packed folder, whole and as it is, has its own in its manifest: of
    every byte.
    """
    if (packed := packed_fingerprint(rows)) is not None:
        return packed
    digest = hashlib.sha256(f"{len(rows)} {sorted(rows.column_names)}".encode())
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    for name in images:
        rows = rows.cast_column(name, datasets.Image(decode=False))
    for row in rows.select(np.linspace(0, max(0, len(rows) - 1), min(sample, len(rows))).round().astype(int)):
        for name in sorted(row):
            value = _content(row[name]) if name in images else repr(row[name]).encode()
            digest.update(hashlib.sha256(value).digest())
    return digest.hexdigest()[:16]


def _keys(rows: Dataset, image: str) -> Iterator[bytes]:
    # Only the ends of each image are read: a data set larger than memory stays on disk.
    for table in rows.select_columns([image]).with_format("arrow").iter(1000):
        column = table.column(0)
        for content, path in zip(pc.struct_field(column, "bytes"), pc.struct_field(column, "path"), strict=True):
            if content.is_valid:
                view = memoryview(content.as_buffer())
                yield b"%d" % len(view) + bytes(view[:EDGE]) + bytes(view[-EDGE:])
            else:
                yield os.path.basename(path.as_py() or "").encode()


def _share(key: bytes) -> float:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


def _content(image: dict[str, Any] | None) -> bytes:
    if image is None:
        return b""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"] or "")
    return path.read_bytes() if path.is_file() else path.name.encode()
