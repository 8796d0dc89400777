"""Captions against a slow choice by hand, their distribution, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from clipkit.data.captions import CaptionChoice, choose_captions, has_caption
from clipkit.data.order import sample_rng
from clipkit.types import ArgumentError

TEXTS = List(Value("string"))
ROWS = [
    {"captions": ["a dog", "ein Hund"], "languages": ["en", "de"], "tags": ["animal", "pet", "bark"], "name": "dog"},
    {"captions": ["a cat"], "languages": ["en"], "tags": [], "name": "cat"},
    {"captions": ["", None, "eine Maus"], "languages": ["en", "en", "de"], "tags": None, "name": None},
    {"captions": [], "languages": [], "tags": ["  "], "name": ""},
]


@pytest.fixture
def rows() -> Dataset:
    features = Features(captions=TEXTS, languages=TEXTS, tags=TEXTS, name=Value("string"))
    return Dataset.from_list(ROWS, features=features)


def refused(argument: str, match: str, rows: Dataset, **options) -> None:
    with pytest.raises(ArgumentError, match=match) as raised:
        choose_captions(rows, **options)
    assert raised.value.argument == argument


def draws(choice: CaptionChoice, row: dict, count: int = 6000) -> Counter:
    candidates = choice.candidates(row)
    return Counter(choice.draw(candidates, sample_rng(0, 0, i)) for i in range(count))


def close(counts: Counter, shares: dict[str, float]) -> bool:
    total = sum(counts.values())
    assert set(counts) == set(shares)
    chi = sum((counts[text] - total * share) ** 2 / (total * share) for text, share in shares.items())
    return chi < 20


def test_candidates(rows):
    choice = choose_captions(rows, ["captions", "tags", "name"])
    assert [choice.candidates(row) for row in rows] == [
        {"captions": ["a dog", "ein Hund"], "tags": ["animal", "pet", "bark"], "name": ["dog"]},
        {"captions": ["a cat"], "name": ["cat"]},
        {"captions": ["eine Maus"]},
        {},
    ]


def test_languages_filter_the_columns_they_belong_to(rows):
    choice = choose_captions(rows, ["captions", "tags"], "languages", ["de"])
    assert choice.language_of == {"captions": "languages"}  # the tags are as many in no row but the second
    assert [choice.candidates(row) for row in rows] == [
        {"captions": ["ein Hund"], "tags": ["animal", "pet", "bark"]},
        {},
        {"captions": ["eine Maus"]},
        {},
    ]


def test_a_language_a_row():
    rows = Dataset.from_dict({"text": ["a dog", "ein Hund", None], "lang": ["en", "de", "en"]})
    choice = choose_captions(rows, None, "lang", ["en"])
    assert [choice.candidates(row) for row in rows] == [{"text": ["a dog"]}, {}, {}]
    assert has_caption(rows, choice).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"caption": "captions"},
        {"caption": "name"},
        {"caption": ["captions", "tags", "name"]},
        {"caption": "captions", "language_column": "languages", "languages": ["de"]},
        {"caption": {"captions": 1, "tags": 2}, "language_column": "languages", "languages": ["en"]},
    ],
)
@pytest.mark.parametrize("part", [slice(None), slice(1, 3)])
def test_has_caption_agrees_with_the_candidates(rows, options, part):
    choice = choose_captions(rows, **options)
    some = rows.select([3, 0, 2, 1, 0, 3]).select(range(*part.indices(6)))
    assert has_caption(some, choice).tolist() == [bool(choice.candidates(row)) for row in some]


def test_has_caption_over_many_chunks(tmp_path):
    rng = np.random.default_rng(0)
    texts = [["x"] * int(n) for n in rng.integers(0, 3, 5000)]
    rows = Dataset.from_dict({"caption": texts}, features=Features(caption=TEXTS))
    rows.to_parquet(tmp_path / "a.parquet", batch_size=700)
    again = Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert has_caption(again, choose_captions(again)).tolist() == [bool(text) for text in texts]


def test_draws_follow_the_weights(rows):
    choice = choose_captions(rows, {"captions": 1.0, "tags": 2.0, "name": 1.0})
    third = 0.5 / 3
    shares = {"a dog": 0.125, "ein Hund": 0.125, "animal": third, "pet": third, "bark": third, "dog": 0.25}
    assert close(draws(choice, ROWS[0]), shares)
    assert close(draws(choice, ROWS[1]), {"a cat": 0.5, "cat": 0.5})  # what a row lacks is no part of it


def test_draws_take_templates_evenly(rows):
    choice = choose_captions(rows, "name", templates=["{}", "a photo of {}.", "{}!"])
    third = 1 / 3
    assert close(draws(choice, ROWS[0]), {"dog": third, "a photo of dog.": third, "dog!": third})


def test_the_first_of_each_without_rng(rows):
    choice = choose_captions(rows, ["tags", "captions"], templates=["the {}", "a {}"])
    assert choice.draw(choice.candidates(ROWS[0]), None) == "the animal"
    assert choice.draw(choice.candidates(ROWS[1]), None) == "the a cat"
    with pytest.raises(ValueError, match="no caption"):
        choice.draw({}, None)


def test_braces_in_a_caption_stay(rows):
    assert choose_captions(rows, "name", templates=["a {}"]).draw({"name": ["{} {x}"]}, None) == "a {} {x}"


def test_the_usual_column():
    assert list(choose_captions(Dataset.from_dict({"name": ["a"], "text": ["b"]})).columns) == ["text"]
    assert list(choose_captions(Dataset.from_dict({"text": [1], "title": ["b"]})).columns) == ["title"]
    refused("caption", r"is a column of text \(found words, id\)$", Dataset.from_dict({"words": ["a"], "id": [1]}))
    refused("caption", r"found image\); a folder of images needs a metadata.csv", Dataset.from_dict({"image": ["a"]}))


def test_what_is_refused(rows):
    refused("caption", r"no column 'nam'; did you mean 'name'\? \(found captions,", rows, caption="nam")
    refused("caption", "'id' holds int64", Dataset.from_dict({"id": [1]}), caption="id")
    refused("caption", "each a weight above 0", rows, caption={"name": 0.0})
    refused("caption", "at least one column", rows, caption=[])
    refused("templates", "needs exactly one {}", rows, templates=["a photo"])
    refused("templates", "needs exactly one {}", rows, templates=["{} and {}"])
    refused("templates", "give at least one", rows, templates=[])
    refused("languages", "name the column", rows, languages=["en"])
    refused("language_column", "did you mean 'languages'", rows, language_column="language")
    refused("language_column", "as many values", rows, caption="tags", language_column="languages")
    refused("language_column", "as many values", rows, caption="name", language_column="languages")
    refused(
        "languages", r"no caption is in 'eng'; did you mean 'en'\? \(found en, de\)", rows,
        caption="captions", language_column="languages", languages=["eng"],
    )  # fmt: skip
