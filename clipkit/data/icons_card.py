"""The card of the icons: what is in them, under which licence, and whose they are."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["card"]

COLUMNS = {
    "image": "the drawing in black or in its colours on white, PNG",
    "name": "its author's name for it, as words",
    "captions": "the name, and the other names that the set has for the same drawing",
    "style": "the title of its set",
    "category": "the first category its set puts it in, empty where the set has none",
    "icon": "set and name in the package, as in `mdi:account`",
    "licence": "SPDX identifier",
    "pixel_hash": "16 hexadecimal digits that tell its pixels from others",
}


def card(package: str, size: int, sets: dict[str, Any], written: dict[str, int], refused: dict[str, Any]) -> str:
    """Write the data card.

    Args:
        package: Name and version of the npm package.
        size: Pixels of both sides.
        sets: Of each set, what the package says.
        written: How many icons of each were written.
        refused: What the package says of the sets that were left out for their licence.

    Returns:
        Markdown with the front matter that tells where the rows are.
    """
    licences = Counter[str]()
    for name, info in sets.items():
        licences[info["license"]["spdx"]] += written[name]
    body = "\n".join(_set_line(name, info, written[name]) for name, info in sorted(sets.items()))
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data-*.arrow
license: other
pretty_name: Icons with the names of their authors
---
# Icons

{sum(written.values()):,} drawings of {size} x {size} pixels from {len(sets)} sets of icons, with the names that their
authors gave them: `clipkit data build-icons` made them from the npm package `{package}`.

## Columns

{_list(COLUMNS)}

## Licences

Each row keeps the licence of its set, and the table below names its author: credit them where the licence asks for it.
Changes made to every drawing: rendered from SVG on white. Names and marks of companies stay theirs.

| licence | icons |
|---|---:|
{_licence_lines(licences)}

{_refused(refused)}

## Known limits

- A name is what its author needed to find the file: often a few words, sometimes with a size or a weight in it.
- Many sets draw the same things under the same names, and some drawings come in several sets: rows are not independent.
- A drawing that moves is drawn as it begins; one that is white on white or has nothing to show is left out.

## Sets

| set | title | author | licence | icons |
|---|---|---|---|---:|
{body}
"""


def _set_line(name: str, info: dict[str, Any], count: int) -> str:
    author, licence = info["author"], info["license"]
    return (
        f"| {name} | {info['name']} | {_link(author['name'], author)} | {_link(licence['spdx'], licence)} | {count:,} |"
    )


def _link(text: str, entry: dict[str, Any]) -> str:
    return f"[{text}]({entry['url']})" if entry.get("url") else text


def _licence_lines(licences: Counter[str]) -> str:
    return "\n".join(f"| {licence} | {count:,} |" for licence, count in licences.most_common())


def _refused(refused: dict[str, Any]) -> str:
    if not refused:
        return "No set was left out for its licence."
    listed = ", ".join(f"{name} ({info['license'].get('spdx', 'none')})" for name, info in sorted(refused.items()))
    return f"Left out for their licence: {listed}."


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f"- `{name}`: {text}" for name, text in entries.items())
