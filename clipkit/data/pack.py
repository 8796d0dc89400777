"""Pack a data set: validated, resized, without duplicates, in memory-mapped Arrow shards with a manifest.

A folder is written shard by shard, each under another name first, and each with a record of what went into it; so a
packing that was killed goes on behind the last whole shard and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from datasets import Dataset, Features, IterableDataset

from clipkit.data.captions import choose_captions
from clipkit.data.columns import image_column
from clipkit.data.duplicates import DUPLICATES, Duplicates
from clipkit.data.hashes import fingerprint
from clipkit.data.pack_chunk import PackChunk, Packed, drop_rows
from clipkit.data.packed import MADE_BY, MANIFEST, PLAN, STATE, close_folder, write_json
from clipkit.data.scan import in_order, read_chunks
from clipkit.data.sharded import SKIPPED
from clipkit.data.skips import Skipped
from clipkit.types import ArgumentError

__all__ = ["FORMATS", "Report", "pack"]

FORMATS = ("jpeg", "uint8")
Report = Callable[[int, Counter[str]], None]
"""Called after each shard with the rows read and the rows skipped by reason, of the whole source so far."""


class _Record(NamedTuple):
    """What is kept of a shard until the folder is whole."""

    file: str
    read: int
    rows: list[int]
    bytes: int
    sha256: str
    hashes: list[str]
    skipped: list[Skipped]


def pack(
    rows: Dataset | IterableDataset,
    folder: Path,
    source: str,
    size: int = 256,
    form: str = "jpeg",
    quality: int = 90,
    image: str | None = None,
    caption: str | list[str] | None = None,
    duplicates: str = "rows",
    limit: int | None = None,
    rows_per_shard: int = 1024,
    workers: int | None = None,
    report: Report = lambda read, skipped: None,
) -> dict[str, Any]:
    """Write a data set as ``datasets.load_from_disk`` and ``clipkit.data.load_rows`` read it.

    Every column is carried over; the image column keeps its name. What the loader could not use is left out, and so are
    duplicates of earlier rows.

    Args:
        rows: The data set, or a stream.
        folder: Where to write; an unfinished one is gone on with.
        source: What ``rows`` were read from, for the manifest.
        size: Pixels of the shorter side, bicubic; images are never enlarged.
        form: ``jpeg``, or ``uint8``: as binary PPM, whose pixels are used as they lie on disk.
        quality: Of JPEG, 1 to 95.
        image: The image column; the first with images where none is given.
        caption: The caption columns a row must have one of; the first usual one where none is given.
        duplicates: Which later rows to leave out: those with the pixels and the captions of an earlier one (``rows``),
            with its pixels (``images``), with nearly its image (``near``; see ``NearDuplicates``), or ``none``.
        limit: Stop after this many rows of the source.
        rows_per_shard: Rows of the source that a shard is made from.
        workers: Processes; one a core where none is given; 0 works in this one. It changes no byte.
        report: Told of the progress.

    Returns:
        The manifest.

    Raises:
        ArgumentError: For a wrong argument, a folder with something else in it, or where no row can be used.
    """
    _check(size, form, quality, duplicates, rows_per_shard)
    column, choice = image_column(rows, image), choose_captions(rows, caption)
    settings = {
        "source": source,
        "data": fingerprint(rows) if isinstance(rows, Dataset) else None,
        "size": size,
        "format": form,
        "quality": quality if form == "jpeg" else None,
        "image": column,
        "caption": list(choice.columns),
        "duplicates": duplicates,
        "limit": limit,
        "rows_per_shard": rows_per_shard,
    }
    if (done := _begin(folder, settings)) is not None:
        return done
    known, records = Duplicates(duplicates), _finished(folder)
    for number, record in enumerate(records):
        thumbnails = _thumbnails(folder, number)
        known.restore(record.rows, record.hashes, np.load(thumbnails) if thumbnails.is_file() else None)
    kinds = {name: kind for name, kind in rows.features.items() if name != SKIPPED}
    features = Features({**kinds, column: datasets.Image()})
    work = PackChunk(folder / "work", column, choice, features, size, form, quality, duplicates)
    chunks = read_chunks(rows, rows_per_shard, len(records), limit)
    _tell(report, records)
    for packed in in_order(work, chunks, (os.cpu_count() or 1) if workers is None else workers):
        records.append(_commit(folder, packed, known, features))
        _tell(report, records)
    return _finish(folder, settings, features, records)


def _check(size: int, form: str, quality: int, duplicates: str, rows_per_shard: int) -> None:
    for name, value, known in (("format", form, FORMATS), ("duplicates", duplicates, DUPLICATES)):
        if value not in known:
            raise ArgumentError(name, f"{value!r} is not one of {', '.join(known)}")
    if not 1 <= quality <= 95:
        raise ArgumentError("quality", f"{quality} is not between 1 and 95")
    for name, number in (("size", size), ("rows_per_shard", rows_per_shard)):
        if number < 1:
            raise ArgumentError(name, f"{number} is less than 1")


def _begin(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Make the folder ready; the manifest, where it is whole already.

    Raises:
        ArgumentError: For ``DIR``, where it holds something else, or was begun with other settings.
    """
    if (folder / STATE).is_file() and (folder / MANIFEST).is_file():
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _compare(folder, manifest["settings"], settings)
        shutil.rmtree(folder / "work", ignore_errors=True)
        return manifest
    if (folder / PLAN).is_file():
        _compare(folder, json.loads((folder / PLAN).read_text(encoding="utf-8")), settings)
    elif folder.is_dir() and any(path.name != "work" for path in folder.iterdir()):
        raise ArgumentError("DIR", f"{str(folder)!r} is not empty, and no packing was begun in it; name another folder")
    (folder / "work").mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, {"command": f"{MADE_BY} {settings['source']} {folder}", **settings})
    return None


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [f"{name} {before.get(name)!r}, now {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changed:
        what = f"{str(folder)!r} was packed with {'; '.join(changed)}"
        raise ArgumentError("DIR", f"{what}: give what it was begun with, or another folder")


def _finished(folder: Path) -> list[_Record]:
    """The shards that are whole: the first ones, up to one that is missing."""
    records: list[_Record] = []
    while (path := _record(folder, len(records))).is_file():
        record = _Record._make(json.loads(path.read_text(encoding="utf-8")))
        record = record._replace(skipped=[Skipped(*skip) for skip in record.skipped])
        file = folder / record.file
        if not file.is_file() or file.stat().st_size != record.bytes:
            break
        records.append(record)
    return records


def _commit(folder: Path, packed: Packed, known: Duplicates, features: Features) -> _Record:
    """Take the duplicates out of a shard, and give it its name and its record; in the order of the source."""
    kept, left_out = [], list(packed.skipped)
    for place, (row, digest) in enumerate(zip(packed.rows, packed.hashes, strict=True)):
        seen = known(row, digest, None if packed.thumbnails is None else packed.thumbnails[place])
        if seen is None:
            kept.append(place)
        else:
            left_out.append(Skipped("the rows", f"row {row}", seen.reason, f"as row {seen.row}", None))
    if len(kept) < len(packed.rows):
        drop_rows(packed.file, features.arrow_schema, kept)
    if packed.thumbnails is not None:
        np.save(_thumbnails(folder, packed.number), packed.thumbnails[kept])
    name = f"data-{packed.number:05}.arrow"
    with packed.file.open("rb+") as file:
        digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        os.fsync(file.fileno())
    os.replace(packed.file, folder / name)
    rows, hashes = [packed.rows[place] for place in kept], [packed.hashes[place] for place in kept]
    record = _Record(name, packed.read, rows, size, digest, hashes, sorted(left_out, key=_row))
    write_json(_record(folder, packed.number), record)
    return record


def _finish(folder: Path, settings: dict[str, Any], features: Features, records: list[_Record]) -> dict[str, Any]:
    shards: list[dict[str, Any]] = [
        {"file": r.file, "rows": len(r.rows), "bytes": r.bytes, "sha256": r.sha256} for r in records if r.rows
    ]
    if not shards:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _skipped(records).items()) or "there is no row"
        raise ArgumentError("SPEC", f"no row can be used: {reasons}")
    digest = hashlib.sha256(json.dumps([list(features), *(shard["sha256"] for shard in shards)]).encode()).hexdigest()
    manifest = {
        "made_by": MADE_BY,
        "settings": settings,
        "read": sum(record.read for record in records),
        "written": sum(len(record.rows) for record in records),
        "skipped": dict(_skipped(records)),
        "columns": list(features),
        "shards": shards,
        "fingerprint": digest[:16],
    }
    lines = [json.dumps(skip._asdict(), ensure_ascii=False) + "\n" for record in records for skip in record.skipped]
    (folder / "skipped.jsonl").write_text("".join(lines), encoding="utf-8")
    for record in records:
        if not record.rows:
            (folder / record.file).unlink()
    write_json(folder / MANIFEST, manifest)
    close_folder(folder, [shard["file"] for shard in shards], features, digest[:16])
    return manifest


def _skipped(records: Sequence[_Record]) -> Counter[str]:
    return Counter(skip.reason for record in records for skip in record.skipped)


def _tell(report: Report, records: Sequence[_Record]) -> None:
    report(sum(record.read for record in records), _skipped(records))


def _record(folder: Path, number: int) -> Path:
    return folder / "work" / f"{number:05}.json"


def _thumbnails(folder: Path, number: int) -> Path:
    return folder / "work" / f"{number:05}.npy"


def _row(skip: Skipped) -> int:
    number = skip.key.removeprefix("row ")
    return int(number) if number.isdecimal() else -1  # a sample of a shard has a name
