"""Rows read in one go against the data set's own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from clipkit.data import open_image
from clipkit.data.arrays import read_array
from clipkit.data.rows import mapped, read_rows


@pytest.fixture(scope="module")
def rows():
    images = [{"bytes": b"P6\n1 1\n255\n" + bytes([i, 2, 3]), "path": None} for i in range(9)]
    images[4], images[5] = {"bytes": None, "path": "five.png"}, None
    columns = {"image": images, "captions": [["a", str(i)][: i % 3] for i in range(9)], "other": list(range(9))}
    features = Features(image=Image(), captions=List(Value("string")), other=Value("int64"))
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("numbers", [[0], [8, 2, 2, 5, 4]])
@pytest.mark.parametrize("chosen", [None, [8, 7, 6, 5, 4, 3, 2, 1, 0]])
def test_as_the_library_gives_them(rows, numbers, chosen):
    rows = rows if chosen is None else rows.select(chosen)
    columns = rows.select_columns(["captions", "image"]).cast_column("image", Image(decode=False))[numbers]
    read = read_rows(mapped(rows, ["image", "captions"], "image"), numbers, "image")
    assert [row["captions"] for row in read] == columns["captions"]
    for row, expected in zip(read, columns["image"], strict=True):
        assert row.keys() == {"captions", "image"}
        assert (row["image"] is None) == (expected is None)
        if expected is not None:
            assert row["image"]["path"] == expected["path"]
            assert row["image"]["bytes"] == expected["bytes"]


def test_bytes_are_not_copied(rows):
    one, other = (read_rows(mapped(rows, ["image"], "image"), [3], "image")[0]["image"] for _ in range(2))
    assert np.shares_memory(read_array(one), read_array(other))


def test_a_jpeg_is_decoded_where_it_lies():
    file = io.BytesIO()
    Pillow.new("RGB", (9, 8), "red").save(file, "JPEG")
    rows = Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}]}, features=Features(image=Image()))
    read = read_rows(mapped(rows, ["image"], "image"), [0], "image")[0]["image"]
    assert np.array_equal(read_array(read), np.asarray(open_image(read)))
