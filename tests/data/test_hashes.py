"""Ids, sides and fingerprints: stable, and about the right things."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from clipkit.data.hashes import concept_ids, fingerprint, hold_out, stable_id
from clipkit.data.source import load_rows


def png(number: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make(numbers, captions=None) -> Dataset:
    images = [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]
    columns = {"image": images, "caption": captions or [f"caption {number}" for number in numbers]}
    return Dataset.from_dict(columns, features=Features(image=Image(), caption=Value("string")))


def plain(rows: Dataset) -> list[bytes]:
    return [image["bytes"] for image in rows.cast_column("image", Image(decode=False))["image"]]


def test_stable_ids():
    assert stable_id("dog") == 2072328596179865167
    assert stable_id(7) == stable_id(np.int32(7)) == 7
    assert stable_id("7") != 7
    ids = {stable_id(str(i)) for i in range(10000)}
    assert len(ids) == 10000
    assert 0 <= min(ids) <= max(ids) < 2**63


@pytest.mark.parametrize(
    "values", [[3, 1, 3, -2], ["b", "a", "b", ""], [True, False, True, True], [0.5, 1.5, 0.5, 2.0]]
)
def test_concept_ids(values):
    rows = Dataset.from_dict({"kind": values})
    assert concept_ids(rows, "kind").tolist() == [stable_id(value) for value in values]
    assert concept_ids(rows.select([3, 0]), "kind").tolist() == [stable_id(values[3]), stable_id(values[0])]


def test_hold_out_is_about_the_fraction():
    rows = make(range(400))
    train, val = hold_out(rows, 0.25, "image")
    assert len(train) + len(val) == 400
    assert 70 < len(val) < 130
    assert not set(plain(train)) & set(plain(val))


def test_added_rows_and_other_captions_move_none():
    few, many = (
        hold_out(make(range(100)), 0.3, "image"),
        hold_out(make([*range(100, 150), *range(150)][::-1]), 0.3, "image"),
    )
    assert set(plain(few[0])) <= set(plain(many[0]))
    assert set(plain(few[1])) <= set(plain(many[1]))
    reworded = hold_out(make(range(100), ["same"] * 100), 0.3, "image")
    assert plain(reworded[1]) == plain(few[1])
    twice = hold_out(make([*range(100), *range(100)]), 0.3, "image")
    assert plain(twice[1]) == plain(few[1]) * 2
    larger = hold_out(make(range(100)), 0.5, "image")
    assert set(plain(few[1])) < set(plain(larger[1]))


def test_hold_out_reads_rows_in_any_order_and_of_a_selection():
    rows = make(range(100))
    order = np.random.default_rng(0).permutation(100)
    assert set(plain(hold_out(rows.select(order), 0.3, "image")[1])) == set(plain(hold_out(rows, 0.3, "image")[1]))
    part = hold_out(rows.select(range(50, 100)), 0.3, "image")
    assert set(plain(part[1])) <= set(plain(hold_out(rows, 0.3, "image")[1]))


def test_hold_out_of_files_goes_by_name(tmp_path):
    sides = []
    for folder in ("mine", "there"):
        (tmp_path / folder / "x").mkdir(parents=True)
        for number in range(30):
            (tmp_path / folder / f"x/{number}.png").write_bytes(png(number))
        lines = "".join(f"x/{number}.png,c\n" for number in range(30))
        (tmp_path / folder / "rows.csv").write_text(f"image,caption\n{lines}")
        val = hold_out(load_rows(str(tmp_path / folder / "rows.csv")), 0.4, "image")[1]
        paths = val.cast_column("image", Image(decode=False))["image"]
        sides.append([Path(image["path"]).name for image in paths])
    assert sides[0] == sides[1] != []
    assert len(sides[0]) < 30


def test_fingerprint_is_the_same_wherever_it_lies(tmp_path):
    marks = []
    for folder in ("mine", "there"):
        (tmp_path / folder).mkdir()
        for number in range(5):
            (tmp_path / folder / f"{number}.png").write_bytes(png(number))
        rows = "".join(f"{number}.png,caption {number}\n" for number in range(5))
        (tmp_path / folder / "metadata.csv").write_text(f"file_name,caption\n{rows}")
        marks.append(fingerprint(load_rows(str(tmp_path / folder))))
    assert marks[0] == marks[1] == fingerprint(make(range(5)))  # nor whether in files or in the table
    (tmp_path / "there/3.png").write_bytes(png(77))
    assert fingerprint(load_rows(str(tmp_path / "there"))) != marks[0]


def test_fingerprint_tells_changes():
    rows = make(range(6))
    marks = [
        fingerprint(rows),
        fingerprint(make([0, 1, 2, 3, 4])),
        fingerprint(make([0, 1, 2, 3, 4, 6])),
        fingerprint(make([1, 0, 2, 3, 4, 5])),
        fingerprint(make(range(6), ["caption"] * 6)),
        fingerprint(rows.rename_column("caption", "text")),
        fingerprint(rows.remove_columns("caption")),
        fingerprint(rows.select([])),
    ]
    assert len(set(marks)) == len(marks)
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in marks)
    assert fingerprint(make(range(6))) == marks[0]
    assert fingerprint(rows.select_columns(["caption", "image"])) == marks[0]


def test_the_fingerprint_of_the_emoji_set_is_known(emoji):
    assert fingerprint(emoji) == "f620a3ba33a8aaf5"


def test_the_cost_is_bounded(monkeypatch):
    rows, read = Dataset.from_dict({"caption": [str(i) for i in range(5000)]}), []
    select = Dataset.select
    monkeypatch.setattr(Dataset, "select", lambda self, indices: read.append(len(indices)) or select(self, indices))
    fingerprint(rows)
    assert read == [256]
