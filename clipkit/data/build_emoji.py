"""Build the embedded emoji set: real drawings in seven styles with human-written names in many languages.

The sources are three npm packages, fetched once at build time and never at run time:

- ``@iconify/json`` 2.2.535 for the drawings, as SVG: the sets in ``emoji_sources.STYLES``;
- ``emojibase-data`` 17.0.0 for names in every language, keywords, groups and subgroups;
- ``openmoji`` 17.0.0 for further English keywords.

``emoji_sources.py`` says how they are joined. Everything that is drawn by lot is decided by a SHA-256 hash of a
string, so a rebuild gives the same rows, splits and pixels.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.data.emoji_sources import PACKAGES, SIZE, Concept, Drawing, read_concepts, read_drawings
from clipkit.data.svg import rasterise

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HELD_OUT_STYLE = "openmoji"
VOCABULARY = 8192
SPECIAL_TOKENS = ("<pad>", "<start>", "<end>")


def fetch_packages(folder: Path, packages: Sequence[str] = PACKAGES) -> Path:
    """Install npm packages under ``folder``.

    Args:
        folder: where to install; made when absent.
        packages: name and version of each; the three of the emoji set by default.

    Returns:
        The ``node_modules`` folder that ``build_emoji`` takes.

    Raises:
        RuntimeError: npm is not installed, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "npm was not found: install Node.js, or pass a node_modules folder that holds " + ", ".join(packages)
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--loglevel=error", "--no-fund", "--no-audit", "--prefix", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = done.stderr.strip() or done.stdout.strip() or "no message"
        raise RuntimeError(f"npm install failed with code {done.returncode}: {message}")
    return folder / "node_modules"


def build_emoji(packages: Path, out: Path) -> dict[str, int]:
    """Render the set and write ``emoji.parquet``, ``tokenizer.json``, ``README.md`` and ``LICENSES.md``.

    Args:
        packages: a ``node_modules`` folder with the three packages.
        out: the folder to write to; made when absent.

    Returns:
        Counts: ``images``, ``concepts``, ``bytes``, one per style (``style:noto``), one per split (``split:train``).

    Raises:
        FileNotFoundError: a package is missing.
        ModuleNotFoundError: the renderer is not installed.
        ValueError: two concepts share an English name.
    """
    from clipkit.data.emoji_card import card, licences

    out.mkdir(parents=True, exist_ok=True)
    concepts = read_concepts(packages)
    rows = list(_rows(concepts, list(read_drawings(packages, concepts))))
    _write_parquet(rows, out / "emoji.parquet")
    held_out = {row["hexcode"] for row in rows if row["split"] == "concepts"}
    train_tokenizer([concept for concept in concepts if concept.hexcode not in held_out]).save(
        str(out / "tokenizer.json")
    )
    (out / "README.md").write_text(card(rows), encoding="utf-8")
    (out / "LICENSES.md").write_text(licences(), encoding="utf-8")
    counts = Counter(f"{key}:{row[key]}" for row in rows for key in ("style", "split"))
    size = sum(file.stat().st_size for file in out.iterdir())
    return {"images": len(rows), "concepts": len(concepts), "bytes": size, **counts}


def check_emoji(packages: Path, parquet: Path, rows: int | None = None) -> list[str]:
    """Render the set again and compare it with a built file, pixel hash by pixel hash.

    Args:
        packages: a ``node_modules`` folder with the three packages.
        parquet: the file to check.
        rows: check about this many rows, evenly spaced; all of them, and that none is missing, when ``None``.

    Returns:
        One line for each row that differs; empty when all agree.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(parquet, columns=["hexcode", "style", "pixel_hash"]).to_pylist()
    step = 1 if rows is None else max(1, len(table) // rows)
    shipped = {(row["hexcode"], row["style"]): row["pixel_hash"] for row in table[::step]}
    drawings = list(read_drawings(packages, read_concepts(packages)))
    chosen = [drawing for drawing in drawings if rows is None or (drawing.hexcode, drawing.style) in shipped]
    fresh = {(d.hexcode, d.style): pixel_hash for d, (_, pixel_hash) in zip(chosen, _render_all(chosen), strict=True)}
    pairs = ((key, shipped.get(key, "no row"), fresh.get(key, "no drawing")) for key in sorted({*shipped, *fresh}))
    return [
        f"{hexcode} {style}: {old} in the file, {new} rendered" for (hexcode, style), old, new in pairs if old != new
    ]


def render(svg: str) -> tuple[bytes, str]:
    """Render an SVG document on white.

    Args:
        svg: the document.

    Returns:
        The image as lossy WebP, and the pixel hash: 16 hexadecimal digits of the SHA-256 of its 64 x 64 x 3 uint8
        pixels before compression.

    Raises:
        ModuleNotFoundError: the renderer is not installed.
    """
    image = rasterise(svg, SIZE)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, method=6)
    return buffer.getvalue(), hashlib.sha256(image.tobytes()).hexdigest()[:16]


def assign_splits(drawings: list[Drawing]) -> list[str]:
    """Give each drawing its split; ``concepts`` goes before ``style``, ``style`` before ``cells``.

    ``cells`` draws 10 % of the (concept, family) pairs, where both fluent sets are one family; a concept keeps at least
    one family in ``train``.

    Args:
        drawings: all drawings of all concepts.

    Returns:
        ``train``, ``cells``, ``style`` or ``concepts`` for each drawing.
    """
    families: dict[str, set[str]] = {}
    for drawing in drawings:
        if drawing.style != HELD_OUT_STYLE:
            families.setdefault(drawing.hexcode, set()).add(_family(drawing.style))
    held: set[tuple[str, str]] = set()
    for hexcode, names in families.items():
        lots = sorted((_lot(f"cells:{hexcode}:{family}"), family) for family in names)
        held.update((hexcode, family) for lot, family in lots[:-1] if lot < 0.10)

    def split(drawing: Drawing) -> str:
        if _lot(f"concepts:{drawing.hexcode}") < 0.05:
            return "concepts"
        if drawing.style == HELD_OUT_STYLE:
            return "style"
        return "cells" if (drawing.hexcode, _family(drawing.style)) in held else "train"

    return [split(drawing) for drawing in drawings]


def train_tokenizer(concepts: list[Concept]) -> Tokenizer:
    """Train a lower-casing byte-level BPE on names in all languages, keywords and subgroups.

    English counts as much as the other languages together: each English text is repeated once a language.

    Args:
        concepts: the concepts that training may see.

    Returns:
        A tokenizer that wraps a text in ``<start>`` and ``<end>`` and pads with id 0.
    """
    from tokenizers import Tokenizer as Untrained
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    texts: list[str] = []
    for concept in concepts:
        texts += concept.captions[1:] + [concept.name, *concept.keywords, concept.subgroup] * len(concept.languages)
    tokenizer = Untrained(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=True
    )  # a word is the same token wherever it stands
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, start, end = ((token, tokenizer.token_to_id(token)) for token in SPECIAL_TOKENS)
    wrap = (f"{start[0]} $A {end[0]}", f"{start[0]} $A {end[0]} $B:1 {end[0]}:1")
    tokenizer.post_processor = processors.TemplateProcessing(single=wrap[0], pair=wrap[1], special_tokens=[start, end])
    tokenizer.enable_padding(pad_id=pad[1], pad_token=pad[0])
    return tokenizer


def _rows(concepts: list[Concept], drawings: list[Drawing]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the parquet file."""
    numbers = {concept.hexcode: (number, concept) for number, concept in enumerate(concepts)}
    for drawing, split, (webp, pixel_hash) in zip(
        drawings, assign_splits(drawings), _render_all(drawings), strict=True
    ):
        number, concept = numbers[drawing.hexcode]
        image = {"bytes": webp, "path": None}
        yield {
            "image": image,
            "concept": number,
            "style": drawing.style,
            "split": split,
            "pixel_hash": pixel_hash,
            **concept._asdict(),
        }


def _render_all(drawings: list[Drawing]) -> Iterator[tuple[bytes, str]]:
    with ProcessPoolExecutor() as pool:
        yield from pool.map(render, [drawing.svg for drawing in drawings], chunksize=64)


def _write_parquet(rows: list[dict[str, Any]], file: Path) -> None:
    """Write with the metadata that makes ``datasets`` decode images; captions are shared within a row group."""
    import pyarrow.parquet
    from datasets import Features, Image, List, Value

    text, texts = Value("string"), List(Value("string"))
    kinds = {"image": Image(), "concept": Value("int32"), "captions": texts, "languages": texts, "keywords": texts}
    columns = [
        "image",
        "concept",
        "hexcode",
        "style",
        "name",
        "captions",
        "languages",
        "keywords",
        "group",
        "subgroup",
        "split",
        "pixel_hash",
    ]
    schema = Features({column: kinds.get(column, text) for column in columns}).arrow_schema
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    leaves = [f"{column}.list.element" if kinds.get(column) == texts else column for column in columns[1:-1]]
    options = {"row_group_size": 2048, "dictionary_pagesize_limit": 2**23}
    pyarrow.parquet.write_table(table, file, compression="zstd", compression_level=19, use_dictionary=leaves, **options)


def _family(style: str) -> str:
    return "fluent" if style.startswith("fluent") else style


def _lot(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
