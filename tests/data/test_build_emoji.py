"""The embedded emoji set as it is shipped, and, given the npm packages, that it is rebuilt to the pixel."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import clipkit.data.build_emoji as build_emoji_module
from clipkit.data.build_emoji import assign_splits, build_emoji, check_emoji, fetch_packages, train_tokenizer
from clipkit.data.emoji_sources import STYLES, Concept, Drawing, read_concepts, read_drawings

FOLDER = Path(build_emoji_module.__file__).parent / "assets" / "emoji"
COLUMNS = ["image", "concept", "hexcode", "style", "name", "captions", "languages", "keywords"]
COLUMNS += ["group", "subgroup", "split", "pixel_hash"]
PACKAGES = os.environ.get("CLIPKIT_EMOJI_PACKAGES")
needs_packages = pytest.mark.skipif(not PACKAGES, reason="CLIPKIT_EMOJI_PACKAGES does not name a node_modules folder")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pyarrow.parquet.read_table(FOLDER / "emoji.parquet").to_pylist()


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def family(style: str) -> str:
    return "fluent" if style.startswith("fluent") else style


def test_counts(rows):
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 10_950
    assert Counter(row["style"] for row in rows) == {
        "emojione": 1065,
        "fluent-emoji": 1594,
        "fluent-emoji-flat": 1594,
        "noto": 1652,
        "noto-v1": 1217,
        "openmoji": 1914,
        "twemoji": 1914,
    }
    assert len({row["hexcode"] for row in rows}) == 1914
    assert len({row["subgroup"] for row in rows}) == 98
    assert len({row["group"] for row in rows}) == 9


def test_rows_are_sorted_and_concepts_numbered_by_hexcode(rows):
    keys = [(row["hexcode"], row["style"]) for row in rows]
    assert keys == sorted(set(keys))
    numbers = {hexcode: number for number, hexcode in enumerate(sorted({row["hexcode"] for row in rows}))}
    assert all(row["concept"] == numbers[row["hexcode"]] for row in rows)


def test_loads_with_datasets_as_images(tmp_path):
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    data = load_dataset("parquet", data_files=str(FOLDER / "emoji.parquet"), split="train", cache_dir=str(tmp_path))
    assert isinstance(data.features["image"], ImageFeature)
    assert data.features["concept"].dtype == "int32"
    assert data[0]["image"].size == (64, 64)


def test_images_are_webp_drawings_on_white(rows):
    for row in rows[::97]:
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert image.format == "WEBP" and image.mode == "RGB" and image.size == (64, 64)
        assert np.asarray(image).std() > 5, (row["hexcode"], row["style"])
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows[::97]]
    assert np.mean([(image[[0, 0, -1, -1], [0, -1, 0, -1]] > 245).all() for image in images]) > 0.6


def test_concepts_are_held_out_in_every_style(rows):
    splits = defaultdict(set)
    for row in rows:
        splits[row["hexcode"]].add(row["split"])
    held_out = [hexcode for hexcode, names in splits.items() if "concepts" in names]
    assert all(splits[hexcode] == {"concepts"} for hexcode in held_out)
    assert 0.04 < len(held_out) / len(splits) < 0.06


def test_the_held_out_style_is_never_trained_on(rows):
    assert {row["split"] for row in rows if row["style"] == "openmoji"} == {"style", "concepts"}
    assert {row["style"] for row in rows if row["split"] == "style"} == {"openmoji"}


def test_cells_are_of_concepts_seen_in_another_style(rows):
    seen = {(row["hexcode"], family(row["style"])) for row in rows if row["split"] == "train"}
    cells = {(row["hexcode"], family(row["style"])) for row in rows if row["split"] == "cells"}
    assert not seen & cells
    assert {hexcode for hexcode, _ in cells} <= {hexcode for hexcode, _ in seen}
    assert {row["hexcode"] for row in rows if row["split"] == "style"} <= {hexcode for hexcode, _ in seen}


def test_no_test_image_is_a_training_image_of_the_concept(rows):
    seen = {(row["hexcode"], row["pixel_hash"]) for row in rows if row["split"] == "train"}
    assert not [row for row in rows if row["split"] != "train" and (row["hexcode"], row["pixel_hash"]) in seen]


def test_splits_follow_the_stated_hash(rows):
    def lot(text: str) -> float:
        return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64

    for row in rows:
        assert (row["split"] == "concepts") == (lot(f"concepts:{row['hexcode']}") < 0.05)
        if row["split"] == "cells":
            assert lot(f"cells:{row['hexcode']}:{family(row['style'])}") < 0.10
    drawings = [Drawing(row["hexcode"], row["style"], "") for row in rows]
    assert assign_splits(drawings) == [row["split"] for row in rows]


def test_captions(rows):
    names = {row["hexcode"]: row["name"] for row in rows}
    assert len(set(names.values())) == len(names) == 1914
    for row in rows:
        assert row["captions"][0] == row["name"] == row["name"].lower()
        assert row["languages"][0] == "en"
        assert len(set(row["languages"])) == len(row["languages"]) == len(row["captions"]) > 20
        assert all(caption and caption == caption.strip() and "\\x" not in caption for caption in row["captions"])
        assert row["name"] not in row["keywords"] and len(set(row["keywords"])) == len(row["keywords"])
        assert "-" not in row["subgroup"] + row["group"]


def test_subgroups_are_words_and_one_for_each_concept(rows):
    pairs = {(row["hexcode"], row["subgroup"], row["group"]) for row in rows}
    assert len(pairs) == 1914
    assert {"animal mammal", "country flag", "audio video symbol"} <= {subgroup for _, subgroup, _ in pairs}
    assert "animals & nature" in {group for *_, group in pairs}


def test_subgroups_are_no_keywords(rows):
    assert not {row["subgroup"] for row in rows} & {word for row in rows for word in row["keywords"]}


def test_the_card_states_the_files_counts(rows):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    counts = Counter((row["style"], row["split"]) for row in rows)
    splits = ("train", "cells", "style", "concepts")
    assert "10,950 drawings of 1,914 concepts" in card
    for style in STYLES:
        cells = [counts[style, split] for split in splits]
        assert f"| {style} | {' | '.join(map(str, cells))} | {sum(cells)} |" in card
    sums = [sum(counts[style, split] for style in STYLES) for split in splits]
    assert f"| all | {' | '.join(map(str, sums))} | {len(rows)} |" in card
    assert all(f"`{column}`" in card for column in COLUMNS)


def test_licences_name_each_style_with_source_and_attribution():
    text = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for style in STYLES:
        section = re.search(rf"^## {re.escape(style)}$(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
        assert section and all(word in section[1] for word in ("Licence: ", "Attribution: ", "Source: https://")), style
    assert "CC BY-SA 4.0" in text and "emojibase" in text


def test_size():
    assert {file.name for file in FOLDER.iterdir()} == {"emoji.parquet", "tokenizer.json", "README.md", "LICENSES.md"}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 16 * 2**20


def test_tokenizer_round_trips_every_name(rows, tokenizer):
    names = sorted({row["name"] for row in rows})
    encoded = tokenizer.encode_batch(names)
    lengths = {len(one.ids) for one in encoded}
    assert len(lengths) == 1, "a batch is padded to its longest"
    for name, one in zip(names, encoded, strict=True):
        ids = [token for token, used in zip(one.ids, one.attention_mask, strict=True) if used]
        assert ids[0] == tokenizer.token_to_id("<start>") and ids[-1] == tokenizer.token_to_id("<end>")
        assert tokenizer.decode(ids) == name
    assert np.mean([sum(one.attention_mask) for one in encoded]) < 9


def test_tokenizer_settings(tokenizer):
    assert [tokenizer.token_to_id(token) for token in ("<pad>", "<start>", "<end>")] == [0, 1, 2]
    assert tokenizer.padding["pad_id"] == 0 and tokenizer.truncation is None
    assert tokenizer.get_vocab_size() == 8192
    assert tokenizer.encode("Cat FACE").ids == tokenizer.encode("cat face").ids


def test_tokenizer_handles_every_language(rows, tokenizer):
    for row in rows[::401]:
        for caption in row["captions"]:
            normal = tokenizer.normalizer.normalize_str(caption)
            assert tokenizer.decode(tokenizer.encode(caption).ids).strip() == normal.strip()


def test_tokenizer_is_rebuilt_from_the_file_without_the_held_out_concepts(rows, tokenizer):
    trained_on = {row["hexcode"]: row for row in rows if row["split"] != "concepts"}
    concepts = [Concept(**{key: row[key] for key in Concept._fields}) for row in trained_on.values()]
    assert train_tokenizer(concepts).to_str() == tokenizer.to_str()


def test_a_concept_keeps_a_family_in_train():
    drawings = [Drawing(f"{number:04X}", style, "") for number in range(3000) for style in ("noto", "twemoji")]
    splits = assign_splits(drawings)
    train = {drawing.hexcode for drawing, split in zip(drawings, splits, strict=True) if split == "train"}
    cells = {drawing.hexcode for drawing, split in zip(drawings, splits, strict=True) if split == "cells"}
    assert cells and cells <= train


def test_clear_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="must be a node_modules folder with @iconify/json"):
        build_emoji(tmp_path, tmp_path / "out")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match="npm was not found"):
        fetch_packages(tmp_path)


@needs_packages
def test_a_rebuild_gives_the_same_pixels():
    assert check_emoji(Path(PACKAGES), FOLDER / "emoji.parquet", rows=60) == []


@needs_packages
def test_a_changed_pixel_hash_is_reported(tmp_path):
    table = pyarrow.parquet.read_table(FOLDER / "emoji.parquet").slice(0, 20)
    column = table.schema.get_field_index("pixel_hash")
    hashes = ["0" * 16, *table["pixel_hash"].to_pylist()[1:]]
    pyarrow.parquet.write_table(table.set_column(column, "pixel_hash", [hashes]), tmp_path / "emoji.parquet")
    differing = check_emoji(Path(PACKAGES), tmp_path / "emoji.parquet", rows=20)
    assert len(differing) == 1 and differing[0].startswith("0023-FE0F-20E3 emojione: 0000000000000000 in the file")


@needs_packages
def test_the_file_holds_what_the_packages_say(rows):
    concepts = read_concepts(Path(PACKAGES))
    by_hexcode = {row["hexcode"]: row for row in rows}
    assert all(concept._asdict().items() <= by_hexcode[concept.hexcode].items() for concept in concepts)
    keys = [(drawing.hexcode, drawing.style) for drawing in read_drawings(Path(PACKAGES), concepts)]
    assert keys == [(row["hexcode"], row["style"]) for row in rows]
