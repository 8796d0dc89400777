"""Build the icons: some hundred thousand real drawings with the names their authors gave them, from one npm package.

The package is ``@iconify/json`` 2.2.535, fetched once at build time and never at run time. Sets whose licence is not in
``LICENCES`` are left out. The work is cut into shards in a fixed order, each written under another name first, so that
a build that was killed goes on behind the last whole one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, Image, List, Value

from clipkit.data.icons_card import card
from clipkit.data.pack_chunk import content_hash, write_stream
from clipkit.data.packed import PLAN, close_folder, write_json
from clipkit.data.scan import in_order
from clipkit.data.svg import rasterise, svg_document
from clipkit.types import ArgumentError

__all__ = ["FEATURES", "LICENCES", "PACKAGE", "build_icons", "find_package"]

PACKAGE = "@iconify/json@2.2.535"
LICENCES = (
    *("Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "ISC", "MIT"),
    *("MPL-2.0", "OFL-1.1", "Unlicense"),
)
"""What may be used, changed and passed on, with attribution at most; neither the GPL nor what forbids commerce."""
ICONS_PER_SHARD = 4096
TEXT = Value("string")
FEATURES = Features(
    {
        "image": Image(),
        "name": TEXT,
        "captions": List(TEXT),
        "style": TEXT,
        "category": TEXT,
        "icon": TEXT,
        "licence": TEXT,
        "pixel_hash": TEXT,
    }
)


class Shard(NamedTuple):
    """Which icons go into a file: its number, and for each icon its set and its name."""

    number: int
    icons: list[tuple[str, str]]


def find_package(folder: Path) -> Path:
    """The unpacked package in a folder: that itself, or the one in a ``node_modules``.

    Raises:
        ArgumentError: For ``from``, where there is none.
    """
    for path in (folder, folder / "@iconify/json", folder / "node_modules/@iconify/json"):
        if (path / "collections.json").is_file() and (path / "json").is_dir():
            return path
    raise ArgumentError("from", f"{str(folder)!r} holds no collections.json and json/, as {PACKAGE} unpacked does")


def build_icons(
    package: Path,
    out: Path,
    size: int = 64,
    sets: Sequence[str] = (),
    workers: int | None = None,
    report: Callable[[int, Counter[str]], None] = lambda read, skipped: None,
) -> dict[str, int]:
    """Draw the icons and write them to memory-mapped Arrow shards, with a card.

    Args:
        package: The unpacked package.
        out: The folder to write to; an unfinished one is gone on with.
        size: Pixels of both sides.
        sets: Names of the sets to draw; all whose licence allows it where none is given.
        workers: Processes; one a core where none is given; 0 works in this one. It changes no byte.
        report: Told of the progress: icons read, icons skipped by reason.

    Returns:
        Counts: ``read``, ``written``, one for each reason why icons were left out, ``sets`` and ``bytes``.

    Raises:
        ArgumentError: For ``sets`` or ``DIR``.
        ModuleNotFoundError: The renderer is not installed.
    """
    chosen, refused = _choose(package, sets)
    shards = _shards(package, chosen)
    _begin(out, {"package": _version(package), "size": size, "sets": sorted(chosen)})
    kept = {shard.number: record for shard in shards if (record := _record(out, shard.number)) is not None}
    done, todo = [*kept.values()], [shard for shard in shards if shard.number not in kept]
    work = _Draw(package, out, size)
    _tell(report, done)
    for record in in_order(work, todo, (os.cpu_count() or 1) if workers is None else workers):
        done.append(record)
        _tell(report, done)
    counts: Counter[str] = sum((Counter(record) for record in done), Counter())
    written = {name: counts[f"set:{name}"] for name in chosen}
    (out / "README.md").write_text(card(_version(package), size, chosen, written, refused), encoding="utf-8")
    files = [_file(shard.number) for shard in shards]
    close_folder(out, files, FEATURES, _fingerprint(out, files))
    figures = {name: count for name, count in counts.items() if not name.startswith("set:")}
    return {**figures, "sets": len(chosen)}


def _choose(package: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sets to draw and those that their licence keeps out: name to what the package says of it."""
    known: dict[str, Any] = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    allowed = {name: info for name, info in known.items() if info["license"].get("spdx") in LICENCES}
    for name in wanted:
        if name not in allowed:
            licence = known[name]["license"]["title"] if name in known else None
            why = (
                f"is under {licence}"
                if licence
                else f"is not one of {len(allowed)}, such as {', '.join([*allowed][:4])}"
            )
            raise ArgumentError("sets", f"{name!r} {why}")
    refused = {name: info for name, info in known.items() if name not in allowed}
    return ({name: allowed[name] for name in wanted}, {}) if wanted else (allowed, refused)


def _shards(package: Path, sets: dict[str, Any]) -> list[Shard]:
    """All icons that are shown, sets in order of their names; drawings of one set lie together."""
    icons = []
    for name in sorted(sets):
        data = _set(package, name)
        icons += [(name, icon) for icon in sorted(data["icons"]) if not data["icons"][icon].get("hidden")]
    begins = range(0, len(icons), ICONS_PER_SHARD)
    return [Shard(number, icons[begin : begin + ICONS_PER_SHARD]) for number, begin in enumerate(begins)]


@dataclass(frozen=True)
class _Draw:
    package: Path
    out: Path
    size: int

    def __call__(self, shard: Shard) -> dict[str, int]:
        rows, counts = [], Counter({"read": len(shard.icons)})
        for name, icon in shard.icons:
            row = self._row(name, icon)
            counts[row if isinstance(row, str) else f"set:{name}"] += 1
            rows += [] if isinstance(row, str) else [row]
        counts["written"] = len(rows)
        file = self.out / _file(shard.number)
        part = self.out / "work" / f"{shard.number:05}.{os.getpid()}.part"
        write_stream(part, FEATURES.arrow_schema, [pa.Table.from_pylist(rows, FEATURES.arrow_schema)])
        with part.open("rb+") as written:  # a record on disk is of a shard on disk
            counts["bytes"] = written.seek(0, os.SEEK_END)
            os.fsync(written.fileno())
        os.replace(part, file)
        write_json(_place(self.out, shard.number), counts)
        return dict(counts)

    def _row(self, name: str, icon: str) -> dict[str, Any] | str:
        """A row, or why there is none."""
        data = _set(self.package, name)
        try:
            image = rasterise(svg_document(data, icon, self.size), self.size)
        except ValueError:
            return "not_drawable"
        if image.getextrema() == ((255, 255),) * 3:
            return "blank"  # white on white, or drawn by an animation
        file, info = io.BytesIO(), data["info"]
        pixels = np.asarray(image)
        (image.convert("L") if (pixels == pixels[..., :1]).all() else image).save(file, "PNG")
        names = [_words(each) for each in (icon, *_aliases(self.package, name).get(icon, ()))]
        return {
            "image": {"bytes": file.getvalue(), "path": None},
            "name": names[0],
            "captions": list(dict.fromkeys(names)),
            "style": info["name"],
            "category": _categories(self.package, name).get(icon, ""),
            "icon": f"{name}:{icon}",
            "licence": info["license"]["spdx"],
            "pixel_hash": content_hash(image)[:16],
        }


@lru_cache(maxsize=4)
def _set(package: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((package / "json" / f"{name}.json").read_text(encoding="utf-8"))
    return data


@lru_cache(maxsize=4)
def _aliases(package: Path, name: str) -> dict[str, list[str]]:
    """Other names of each icon; of a turned or mirrored one it is no name."""
    names: dict[str, list[str]] = {}
    for alias, entry in _set(package, name).get("aliases", {}).items():
        if not {"rotate", "hFlip", "vFlip", "hidden"} & entry.keys():
            names.setdefault(entry["parent"], []).append(alias)
    return names


@lru_cache(maxsize=4)
def _categories(package: Path, name: str) -> dict[str, str]:
    """The first category of each icon that has one."""
    first: dict[str, str] = {}
    for category, icons in _set(package, name).get("categories", {}).items():
        for icon in icons:
            first.setdefault(icon, category)
    return first


def _words(slug: str) -> str:
    return " ".join(part for part in slug.replace("_", "-").split("-") if part)


def _version(package: Path) -> str:
    told = package / "package.json"
    return f"@iconify/json@{json.loads(told.read_text(encoding='utf-8'))['version']}" if told.is_file() else PACKAGE


def _begin(out: Path, plan: dict[str, Any]) -> None:
    path = out / PLAN
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"another {name}" for name in plan if before[name] != plan[name]]
        if changed:
            what = f"{str(out)!r} was begun with {' and '.join(changed)}"
            raise ArgumentError("DIR", f"{what}: give what it was begun with, or another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise ArgumentError("DIR", f"{str(out)!r} is not empty, and no build is unfinished in it; name another folder")
    (out / "work").mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": f"clipkit data build-icons {out}", **plan})


def _tell(report: Callable[[int, Counter[str]], None], records: Sequence[dict[str, int]]) -> None:
    counts: Counter[str] = sum((Counter(record) for record in records), Counter())
    report(counts["read"], Counter({name: counts[name] for name in ("blank", "not_drawable") if counts[name]}))


def _fingerprint(out: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        with (out / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _file(number: int) -> str:
    return f"data-{number:05}.arrow"


def _place(out: Path, number: int) -> Path:
    return out / "work" / f"{number:05}.json"


def _record(out: Path, number: int) -> dict[str, int] | None:
    """What is known of a shard that is whole; None where it has to be drawn."""
    path, file = _place(out, number), out / _file(number)
    if not (path.is_file() and file.is_file()):
        return None
    record: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return record if file.stat().st_size == record.get("bytes") else None
