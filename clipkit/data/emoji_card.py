"""Write the texts that go with the embedded emoji set: its card with the counts, and the licences."""

from __future__ import annotations

from collections import Counter
from typing import Any

from clipkit.data.emoji_sources import PACKAGES, SIZE, STYLES

LICENCES = {
    "noto": ("Apache License 2.0", "Noto Emoji, copyright Google Inc.", "https://github.com/googlefonts/noto-emoji"),
    "noto-v1": (
        "Apache License 2.0",
        "Noto Emoji version 1, copyright Google Inc.",
        "https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": (
        "CC BY 4.0",
        "Twemoji, copyright Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
    "openmoji": (
        "CC BY-SA 4.0",
        "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org)",
        "https://github.com/hfg-gmuend/openmoji",
    ),
    "fluent-emoji": (
        "MIT",
        "Fluent Emoji, copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "fluent-emoji-flat": (
        "MIT",
        "Fluent Emoji (flat), copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    "emojione": (
        "CC BY 4.0",
        "EmojiOne 2.3, copyright Emoji One, kept by EmojiTwo",
        "https://github.com/EmojiTwo/emojitwo",
    ),
}
TEXT_LICENCES = {
    "names, keywords, groups and subgroups (emojibase-data)": (
        "MIT",
        "emojibase, copyright (c) 2017-2019 Miles Johnson; made from the Unicode CLDR (Unicode License v3)",
        "https://github.com/milesj/emojibase",
    ),
    "further keywords (openmoji)": (
        "CC BY-SA 4.0",
        "OpenMoji, https://openmoji.org",
        "https://github.com/hfg-gmuend/openmoji",
    ),
}
LICENCE_URLS = {
    "Apache License 2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "MIT": "https://opensource.org/license/mit",
}
MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE."""
SPLIT_MEANINGS = {
    "train": "everything else",
    "cells": "10 % of the remaining (concept, style) cells: the concept is in `train` in other styles (fluent is one)",
    "style": "the rest of `openmoji`: a style never seen, the natural distribution shift",
    "concepts": "5 % of the concepts, held out in every style: zero-data learning",
}
COLUMNS = {
    "image": f"the drawing on white, {SIZE} x {SIZE} RGB, lossy WebP (quality 90)",
    "concept": "int32, the concept's number in the order of `hexcode`",
    "hexcode": "the emoji's code points, the key of every join",
    "style": "the icon set",
    "name": "the English name, lower-case, unique for each concept",
    "captions": "the name in each language, English first; a regional one (`en-gb`) only where it differs",
    "languages": "the language of each caption",
    "keywords": "English tags of emojibase and openmoji, without the name and without whatever is a subgroup",
    "group": "one of Unicode's nine groups, as emojibase titles it",
    "subgroup": "the words of Unicode's slug, which, unlike emojibase's title, can stand alone (`face tongue`)",
    "split": "`train`, `cells`, `style` or `concepts`",
    "pixel_hash": "16 hexadecimal digits of the SHA-256 of the RGB uint8 pixels before compression, for checking",
}


def card(rows: list[dict[str, Any]]) -> str:
    """Write the data card.

    Args:
        rows: every row of the file.

    Returns:
        The card as Markdown.
    """
    counts = Counter((row["style"], row["split"]) for row in rows)
    concepts, subgroups = len({row["hexcode"] for row in rows}), len({row["subgroup"] for row in rows})
    languages = sorted({language for row in rows for language in row["languages"]})
    return f"""# The embedded emoji set

{len(rows):,} drawings of {concepts:,} concepts in {len(STYLES)} styles, with human-written names in {len(languages)}
languages and regions ({", ".join(languages)}).
{subgroups} subgroups. A cube: concept x style x language of the caption.

| style | {" | ".join(SPLIT_MEANINGS)} | all | licence |
|---|{"---:|" * (len(SPLIT_MEANINGS) + 1)}---|
{chr(10).join(_count_line(style, counts) for style in STYLES)}
{_total_line(counts)}

Splits, drawn by a SHA-256 hash and recorded in the column `split`; `concepts` goes before `style`, `style`
before `cells`:

{_list(SPLIT_MEANINGS)}

## Columns

{_list(COLUMNS)}

## How it was made

`clipkit data build-emoji DIR` rebuilds it from the npm packages {", ".join(f"`{package}`" for package in PACKAGES)};
with `--check` it renders everything again and compares the pixel hashes. Concepts are the emoji that emojibase gives a
group, without skin tones, single regional indicators and components. Drawings are joined by code point, without the
variation selector. `noto-v1`, `fluent-emoji` and `emojione` give no code points: an icon is joined by its name where
the sets that do give them use that name for this concept alone. SVG is rendered by resvg.

`tokenizer.json` is a lower-casing byte-level BPE with `<pad>` (0), `<start>` and `<end>`, trained on the names in all
languages, the keywords and the subgroups of the concepts that are not held out.

## Known limits

- {_shared(rows)}
- {_repeats(rows)}
- {_named(rows)}
- Names are those of Unicode CLDR, with its view of the world. Flags are drawn in few styles, since some sets have none.

Licences and attributions: `LICENSES.md`.
"""


def licences() -> str:
    """Write the licence, attribution and source of each style and of the texts.

    Returns:
        The file as Markdown.
    """
    entries = {**{style: LICENCES[style] for style in STYLES}, **TEXT_LICENCES}
    body = "\n\n".join(f"## {title}\n\n{_licence(*entry)}" for title, entry in entries.items())
    return f"""# Licences and attributions of the embedded emoji set

Each row keeps the licence of its style. Changes made to every drawing: rendered from SVG to {SIZE} x {SIZE} pixels on
white and stored as WebP.
All were fetched through {", ".join(f"`{package}`" for package in PACKAGES)}.

{body}

## MIT licence text

{MIT_TEXT}
"""


def _licence(name: str, attribution: str, source: str) -> str:
    return f"- Licence: {name}, {LICENCE_URLS[name]}\n- Attribution: {attribution}\n- Source: {source}"


def _count_line(style: str, counts: Counter[tuple[str, str]]) -> str:
    cells = [counts[style, split] for split in SPLIT_MEANINGS]
    return f"| {style} | {' | '.join(str(cell) for cell in cells)} | {sum(cells)} | {LICENCES[style][0]} |"


def _total_line(counts: Counter[tuple[str, str]]) -> str:
    sums = [sum(counts[style, split] for style in STYLES) for split in SPLIT_MEANINGS]
    return f"| all | {' | '.join(str(cell) for cell in sums)} | {sum(sums)} | |"


def _repeats(rows: list[dict[str, Any]]) -> str:
    """Say how many test images equal a training image of the same concept to the pixel."""
    seen = {(row["hexcode"], row["pixel_hash"]) for row in rows if row["split"] == "train"}
    repeats = sum((row["hexcode"], row["pixel_hash"]) in seen for row in rows if row["split"] == "cells")
    return f"{repeats or 'No'} images of `cells` equal a `train` image of the same concept to the pixel."


def _shared(rows: list[dict[str, Any]]) -> str:
    """Say how many drawings stand for more than one concept."""
    names: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        names.setdefault((row["style"], row["pixel_hash"]), set()).add(row["name"])
    shared = sum(len(names[row["style"], row["pixel_hash"]]) > 1 for row in rows)
    return (
        f"{shared} images are, to the pixel, also another concept's in the same style (`person walking` and\n"
        "  `man walking`, the flags of Norway and Svalbard), so no model can reach 100 %."
    )


def _named(rows: list[dict[str, Any]]) -> str:
    """Say which subgroups are also a concept's name."""
    both = sorted({row["subgroup"] for row in rows} & {row["name"] for row in rows})
    listed = ", ".join(f"`{name}`" for name in both)
    return f"Subgroups are a test of words never used as captions, save for these, which are names too:\n  {listed}."


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f"- `{name}`: {text}" for name, text in entries.items())
