"""One shard's worth of rows to packed rows; this runs in the processes of ``clipkit data pack``."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features
from datasets.table import table_cast
from numpy.typing import NDArray
from PIL import Image

from clipkit.data.captions import CaptionChoice
from clipkit.data.near_duplicates import thumbnail
from clipkit.data.scan import Chunk, Usable, read_table, scan
from clipkit.data.skips import Skipped

__all__ = ["PackChunk", "Packed", "content_hash", "drop_rows", "ppm", "shrink", "write_stream"]

ROWS_PER_BATCH = 64
"""Of Arrow: few enough that a batch of 256-pixel images stays far below the 2 GiB of a binary column."""


class Packed(NamedTuple):
    """A shard that is written under another name, duplicates still in it.

    Attributes:
        file: Where it lies.
        number: Of its chunk.
        read: Rows of the source it is made from.
        rows: Number in the source of each row it has.
        hashes: ``content_hash`` of each.
        thumbnails: (rows, 32, 32, 3) uint8, or None where nobody asked for them.
        skipped: What is left out.
    """

    file: Path
    number: int
    read: int
    rows: list[int]
    hashes: list[str]
    thumbnails: NDArray[np.uint8] | None
    skipped: list[Skipped]


@dataclass(frozen=True)
class PackChunk:
    """What is done with every chunk; see ``clipkit.data.pack.pack`` for what the fields mean."""

    folder: Path
    image: str
    choice: CaptionChoice
    features: Features
    size: int
    form: str
    quality: int
    duplicates: str

    def __call__(self, chunk: Chunk) -> Packed:
        """Write the chunk's shard."""
        table = read_table(chunk)
        found: list[tuple[int, bytes, str]] = []
        thumbnails: list[NDArray[np.uint8]] = []
        left_out: list[Skipped] = []
        for row in scan(table, chunk.first, self.image, self.choice):
            if isinstance(row, Usable):
                captions = row.captions if self.duplicates == "rows" else []
                found.append((row.place, self._encoded(row.image), content_hash(row.image, captions)))
                thumbnails += [thumbnail(row.image)] if self.duplicates == "near" else []
            else:
                left_out.append(row)
        file = self.folder / f"{chunk.number:05}.{os.getpid()}.arrow"
        write_stream(file, self.features.arrow_schema, self._batches(table, found))
        numbers, hashes = [chunk.first + place for place, *_ in found], [digest for *_, digest in found]
        stacked = np.stack(thumbnails) if thumbnails else None
        return Packed(file, chunk.number, len(table), numbers, hashes, stacked, left_out)

    def _encoded(self, image: Image.Image) -> bytes:
        small = shrink(image, self.size)
        if self.form == "uint8":
            return ppm(small)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=self.quality)
        return file.getvalue()

    def _batches(self, table: pa.Table, found: list[tuple[int, bytes, str]]) -> Iterator[pa.Table]:
        rest = table.select([name for name in self.features if name != self.image])
        place = list(self.features).index(self.image)
        for begin in range(0, len(found), ROWS_PER_BATCH):
            part = found[begin : begin + ROWS_PER_BATCH]
            images = pa.array([{"bytes": data, "path": None} for _, data, _ in part], self.features[self.image].pa_type)
            taken = rest.take([row for row, *_ in part]) if rest.num_columns else pa.table({})
            yield table_cast(taken.add_column(place, self.image, images), self.features.arrow_schema)


def shrink(image: Image.Image, size: int) -> Image.Image:
    """The whole image with a shorter side of ``size`` pixels; one that is smaller stays as it is."""
    shorter = min(image.size)
    if shorter <= size:
        return image
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def ppm(image: Image.Image) -> bytes:
    """An RGB image as binary PPM: a header of a few bytes, then (H, W, 3) uint8 that can be used where it lies."""
    return b"P6\n%d %d\n255\n" % image.size + image.tobytes()


def content_hash(image: Image.Image, captions: Sequence[str] = ()) -> str:
    """32 hex digits of an RGB image's size and pixels, and of captions."""
    digest = hashlib.blake2b(b"%d %d " % image.size, digest_size=16)
    digest.update(image.tobytes())
    digest.update(json.dumps(list(captions)).encode() if captions else b"")
    return digest.hexdigest()


def drop_rows(file: Path, schema: pa.Schema, kept: list[int]) -> None:
    """Write a shard anew with some of its rows."""
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
        parts = (kept[begin : begin + ROWS_PER_BATCH] for begin in range(0, len(kept), ROWS_PER_BATCH))
        write_stream(file.with_suffix(".kept"), schema, (table.take(part) for part in parts))
    os.replace(file.with_suffix(".kept"), file)


def write_stream(file: Path, schema: pa.Schema, tables: Iterable[Any]) -> None:
    """Write tables as an Arrow IPC stream of small batches, which can be mapped into memory."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table, max_chunksize=ROWS_PER_BATCH)
