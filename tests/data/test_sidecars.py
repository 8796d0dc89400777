"""Images with a text beside each."""

from __future__ import annotations

import pytest
from PIL import Image

from clipkit.data import CaptionDataModule, load_rows
from clipkit.data.sidecars import read_sidecars


@pytest.fixture
def pairs(own_folder):
    folder = own_folder / "pairs"
    for name in ("b.png", "a.JPG", "deep/c.webp", "alone.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    (folder / "a.txt").write_text("a thing\n\n  another name of it \n")
    (folder / "b.TXT").write_bytes(b"\xef\xbb\xbfa caf\xe9")
    (folder / "deep/c.txt").write_text("deep")
    (folder / "notes.txt").write_text("no image has this name")
    return folder


def test_images_and_the_lines_beside_them(pairs):
    rows = read_sidecars(pairs)
    assert rows["text"][:] == [["a thing", "another name of it"], [], ["a caf\ufffd"], ["deep"]]
    assert [row["image"].size for row in rows] == [(8, 8)] * 4


def test_through_the_front_door(pairs):
    assert load_rows("pairs").column_names == ["image", "text"]
    with pytest.warns(UserWarning, match="1 of 4 rows have no caption; each is left out"):
        data = CaptionDataModule("pairs", batch_size=3)
    assert len(data.train_rows) == 4


def test_images_alone_are_something_else(own_folder):
    Image.new("RGB", (8, 8)).save(own_folder / "a.png")
    assert read_sidecars(own_folder) is None
