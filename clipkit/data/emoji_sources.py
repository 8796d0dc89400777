"""Read what the embedded emoji set is made of from its npm packages: concepts with names, and their drawings.

A concept is an emoji with a Unicode group, without skin tones and without the components (hair, skin patches). Drawings
are joined to concepts by code point. ``noto-v1``, ``fluent-emoji`` and ``emojione`` give none and are joined by icon
name through the sets that do.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.data.svg import svg_document

PACKAGES = ("@iconify/json@2.2.535", "emojibase-data@17.0.0", "openmoji@17.0.0")
STYLES = ("emojione", "fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1", "openmoji", "twemoji")
SIZE = 64
SUBGROUP_WORDS = {"alphanum": "alphanumeric", "av": "audio video"}  # the two slug words that are not English


class Drawing(NamedTuple):
    """One cell of the cube concept x style: the concept's hexcode, the style, and the drawing as an SVG document."""

    hexcode: str
    style: str
    svg: str


class Concept(NamedTuple):
    """What is known of an emoji whatever its style; ``captions`` and ``languages`` run in parallel, English first."""

    hexcode: str
    name: str
    captions: list[str]
    languages: list[str]
    keywords: list[str]
    group: str
    subgroup: str


def read_concepts(packages: Path) -> list[Concept]:
    """Read names, keywords and groups from emojibase and openmoji, sorted by hexcode.

    Args:
        packages: a ``node_modules`` folder with the packages.

    Returns:
        Every emoji with a group other than "components", without skin tones.

    Raises:
        FileNotFoundError: a package is missing.
        ValueError: two concepts share an English name.
    """
    english = [entry for entry in _json(packages, "emojibase-data/en/data.json") if entry.get("group") is not None]
    titles = _json(packages, "emojibase-data/en/messages.json")
    tags = {entry["hexcode"]: entry for entry in _json(packages, "openmoji/data/openmoji.json")}
    locales = sorted(path.parent.name for path in (packages / "emojibase-data").glob("*/data.json"))
    names = {
        locale: {e["hexcode"]: e["label"] for e in _json(packages, f"emojibase-data/{locale}/data.json")}
        for locale in locales
    }
    groups = {group["order"]: group for group in titles["groups"]}
    subgroups = {subgroup["order"]: _words(subgroup["key"]) for subgroup in titles["subgroups"]}
    concepts = []
    for entry in sorted(english, key=lambda entry: str(entry["hexcode"])):
        if groups[entry["group"]]["key"] == "component":
            continue
        name = entry["label"].lower()
        captions = _captions(entry["hexcode"], name, names)
        keywords = _keywords({name, *subgroups.values()}, entry, tags.get(entry["hexcode"], {}))
        group, subgroup = groups[entry["group"]]["message"], subgroups[entry["subgroup"]]
        concepts.append(
            Concept(entry["hexcode"], name, list(captions.values()), list(captions), keywords, group, subgroup)
        )
    repeated = [name for name, count in Counter(concept.name for concept in concepts).items() if count > 1]
    if repeated:
        raise ValueError(f"English names must be unique, but these are shared: {repeated}")
    return concepts


def read_drawings(packages: Path, concepts: list[Concept]) -> Iterator[Drawing]:
    """Yield every drawing of every concept, sorted by (hexcode, style).

    A set without code points is joined by icon name, only where all sets that have code points use that name for this
    concept alone; aliases are not followed, since a set's alias may be an older emoji's name.

    Args:
        packages: a ``node_modules`` folder with the packages.
        concepts: the concepts to find drawings of.

    Yields:
        One drawing a (concept, style) pair that exists.
    """
    sets = {style: _json(packages, f"@iconify/json/json/{style}.json") for style in STYLES}
    wanted = {_plain(concept.hexcode) for concept in concepts}
    icons: dict[str, dict[str, str]] = {}
    for style, data in sets.items():
        icons[style] = {_plain(code): name for code, name in data.get("chars", {}).items() if _plain(code) in wanted}
    owners: dict[str, set[str]] = {}
    for style in STYLES:
        for code, name in icons[style].items():
            owners.setdefault(name, set()).add(code)
    by_name: dict[str, list[str]] = {code: [] for code in wanted}
    for name in sorted(name for name, codes in owners.items() if len(codes) == 1):
        by_name[next(iter(owners[name]))].append(name)
    for concept in concepts:
        code = _plain(concept.hexcode)
        for style, data in sets.items():
            candidates = [icons[style].get(code, "")] if icons[style] else by_name[code]
            found = next((name for name in candidates if name in data["icons"]), None)
            if found is not None:
                yield Drawing(concept.hexcode, style, svg_document(data, found, SIZE))


def _json(packages: Path, name: str) -> Any:
    path = packages / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {packages} must be a node_modules folder with {', '.join(PACKAGES)}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _captions(hexcode: str, name: str, names: dict[str, dict[str, str]]) -> dict[str, str]:
    """The name by language, English first; a regional one counts only where it differs from its base language."""
    captions = {"en": name}
    for locale in sorted(names):
        label = names[locale].get(hexcode, "").strip()
        label = re.sub(r"\\x\{(\w+)\}", lambda code: chr(int(code[1], 16)), label)  # some write "\\x{23}" for "#"
        base = names.get(locale.split("-")[0], {}).get(hexcode) if "-" in locale else None
        if label and label != base:
            captions.setdefault(locale, label)
    return captions


def _keywords(without: set[str], emojibase: dict[str, Any], openmoji: dict[str, Any]) -> list[str]:
    words = [
        *emojibase.get("tags", []),
        *openmoji.get("tags", "").split(","),
        *openmoji.get("openmoji_tags", "").split(","),
    ]
    return [word for word in dict.fromkeys(word.strip().lower() for word in words) if word and word not in without]


def _words(slug: str) -> str:
    return " ".join(SUBGROUP_WORDS.get(word, word) for word in slug.split("-"))


def _plain(hexcode: str) -> str:
    """A hexcode without the variation selector, which some sets write and others do not."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")
