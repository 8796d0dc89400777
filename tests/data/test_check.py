from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from PIL import Image as Pillow
from rich.console import Console

from clipkit.data import CaptionDataModule, CaptionedImages, Recipe, SampleKey, SampleMaker, load_rows
from clipkit.data.check import check
from clipkit.data.check_report import draw, to_tables
from clipkit.tokens import Tokenizer
from clipkit.types import ArgumentError, InputSpec

FEATURES = Features(image=Image(), captions=List(Value("string")))


def picture(number: int, size: tuple[int, int] = (64, 48), **options) -> bytes:
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    rough = Pillow.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    rough.resize(size, Pillow.Resampling.BICUBIC).save(file, **{"format": "PNG", **options})
    return file.getvalue()


def records():
    for i in range(20):
        yield {"image": {"bytes": picture(i), "path": None}, "captions": [f"picture {i}", "a picture"]}
    yield {"image": {"bytes": picture(4), "path": None}, "captions": ["the fourth once more"]}
    yield {"image": {"bytes": picture(7, format="JPEG", quality=60), "path": None}, "captions": ["nearly the seventh"]}
    yield {"image": {"bytes": picture(30, (640, 64)), "path": None}, "captions": ["wide " * 30]}
    yield {"image": {"bytes": b"<html>", "path": "page.jpg"}, "captions": ["a page"]}
    yield {"image": {"bytes": picture(8)[:90], "path": "cut.png"}, "captions": ["cut off"]}
    yield {"image": {"bytes": picture(9), "path": None}, "captions": ["", " "]}


@pytest.fixture
def rows():
    return Dataset.from_list(list(records()), FEATURES)


@pytest.fixture
def found(rows):
    return check(rows, "made up", context_length=16, workers=0)


def test_the_bad_rows_are_named_with_their_reasons(found):
    report = found.report
    assert (report["read"], report["used"]) == (26, 23)
    assert report["skipped"] == {"not_an_image": 1, "undecodable": 1, "no_caption": 1}
    assert [(row["key"], row["source"]) for row in report["bad_rows"]] == [
        ("row 23", "page.jpg"),
        ("row 24", "cut.png"),
        ("row 25", "the rows"),
    ]


def test_it_says_of_each_row_what_the_loader_does(rows, found):
    spec = InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", "emoji", 16, "longest")
    choice = CaptionDataModule(train="emoji/cells").training.recipe.choice._replace(columns={"captions": 1.0})
    samples = CaptionedImages(rows, SampleMaker(Recipe("image", choice, train=False), spec))
    told = {}
    for number in range(len(rows)):
        for skip in samples[SampleKey(0, number, number)].skipped[:1]:
            told[skip.key] = (skip.reason, skip.message, skip.sha256)
    assert {f"row {i}" for i in (23, 24, 25)} == told.keys()
    assert told == {r["key"]: (r["reason"], r["message"], r["sha256"]) for r in found.report["bad_rows"]}


def test_sizes_and_captions_are_counted(rows, found):
    images, captions = found.report["images"], found.report["captions"]
    assert images["width"] == {"min": 64, "5%": 64, "median": 64, "95%": 64, "max": 640}
    assert images["aspect"]["max"] == 10
    texts = [text for row in list(records())[:23] for text in row["captions"]]
    lengths = [len(Tokenizer("emoji", 1000)([text])[0][0]) for text in texts]
    assert found.tokens.tolist() == lengths
    assert captions["captions"] == len(texts) == 43
    assert captions["truncated"] == pytest.approx(np.mean([length > 16 for length in lengths]))
    assert captions["repeats"] == 19
    assert captions["most_repeated"] == [{"caption": "a picture", "times": 20}]


def test_duplicates_are_grouped(found):
    duplicates = found.report["duplicates"]
    assert duplicates["equal_images"] == {"rows": 1, "groups": [[4, 20]]}
    assert duplicates["near_duplicates"] == {"rows": 1, "groups": [[7, 21]]}
    assert [(pair[0], pair[2]) for pair in found.pairs] == [(7, 21)]


def without_speed(report):
    return {key: value for key, value in report.items() if key != "throughput"}


def test_a_stream_and_processes_find_the_same(rows, found):
    stream = IterableDataset.from_generator(records, features=FEATURES)
    assert without_speed(check(stream, "made up", context_length=16, workers=0).report) == without_speed(found.report)
    assert without_speed(check(rows, "made up", context_length=16, workers=2).report) == without_speed(found.report)


def test_a_stream_without_end_is_read_to_the_limit():
    def endless():
        while True:
            yield from records()

    stream = IterableDataset.from_generator(endless, features=FEATURES)
    told = []
    report = check(stream, "endless", limit=60, workers=0, near=False, report=lambda n, _: told.append(n)).report
    assert (report["read"], report["used"]) == (60, 54)
    assert report["duplicates"]["near_duplicates"] is None
    assert told[-1] == 60


def test_all_of_it_can_be_printed_and_drawn(found):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(to_tables(found.report))
    text = console.export_text()
    assert text.index("not_an_image") < text.index("image width")  # what is bad comes first
    assert "row 23 (page.jpg): it is in no image format" in text
    assert "rows 7, 21" in text
    files = draw(found, Path("drawn"))
    assert [file.stem for file in files] == ["sizes", "captions", "skipped", "near_duplicates"]
    for file in files:
        assert np.asarray(Pillow.open(file).convert("L")).std() > 5
    json.dumps(found.report, allow_nan=False)


def test_a_data_set_of_bad_rows_alone_can_be_checked(rows):
    found = check(rows.select([23, 24]), "bad", workers=0)
    assert (found.report["read"], found.report["used"]) == (2, 0)
    Console(file=io.StringIO()).print(to_tables(found.report))
    assert [file.stem for file in draw(found, Path("drawn"))] == ["skipped"]


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"tokenizer": "{}"}, "tokenizer"),
        ({"context_length": 1}, "context_length"),
        ({"caption": "captoins"}, "caption"),
    ],
)
def test_wrong_arguments_are_named(settings, argument):
    with pytest.raises(ArgumentError) as caught:
        check(load_rows("emoji/cells"), "emoji/cells", **settings)
    assert caught.value.argument == argument
