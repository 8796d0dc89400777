"""File names by pattern: ``shard-{000..127}.parquet``, ``{train,extra}/*.csv``."""

from __future__ import annotations

import glob
import re
from pathlib import Path

__all__ = ["expand_braces", "is_pattern", "matching_files"]


def is_pattern(name: str) -> bool:
    """Whether a name stands for several: it has ``*``, ``?``, ``[`` or braces."""
    return glob.has_magic(name) or expand_braces(name) != [name]


def expand_braces(name: str) -> list[str]:
    """The names that braces stand for, as a shell has it: a range of numbers, or alternatives between commas.

    Numbers are as long as the longer end is written; other braces stay as they are.
    """
    for begin in (place for place, letter in enumerate(name) if letter == "{"):
        end = _closing(name, begin)
        choices = None if end is None else _choices(name[begin + 1 : end])
        if choices is not None and end is not None:
            return [one for choice in choices for one in expand_braces(name[:begin] + choice + name[end + 1 :])]
    return [name]


def matching_files(name: str) -> tuple[list[Path], list[str]]:
    """The files that a pattern stands for, in order, and the parts of it that no file matches."""
    files: dict[Path, None] = {}
    missing = []
    for part in expand_braces(name):
        found = sorted(glob.glob(part, recursive=True))
        files.update(dict.fromkeys(map(Path, found)))
        missing += [] if found else [part]
    return list(files), missing


def _closing(name: str, begin: int) -> int | None:
    depth = 0
    for place in range(begin, len(name)):
        depth += {"{": 1, "}": -1}.get(name[place], 0)
        if depth == 0:
            return place
    return None


def _choices(inner: str) -> list[str] | None:
    """What stands between two braces, as alternatives; None where it is neither a range nor has a comma."""
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        return _numbers(found[1], found[2])
    parts, depth = [""], 0
    for letter in inner:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if len(parts) > 1 else None


def _numbers(first: str, last: str) -> list[str]:
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    begin, end = int(first), int(last)
    step = 1 if end >= begin else -1
    return [str(number).zfill(width) for number in range(begin, end + step, step)]
