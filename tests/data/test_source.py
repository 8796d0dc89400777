"""Every kind of source, made small and real."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from clipkit.data.columns import guess_column, image_column, require_columns
from clipkit.data.source import load_rows
from clipkit.types import ArgumentError

NAMES = ["a.png", "test.png", "val_1.png", "deep/c.png"]  # two of which look like splits to the hub's rules


def color(number: int) -> tuple[int, int, int]:
    return (10 * number, 20, 30)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color(number)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(png(number))
    return folder


def table(count: int = 3, image: str = "image", first: int = 0) -> pa.Table:
    images = [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(count)]
    return pa.table({image: images, "caption": [f"caption {first + i}" for i in range(count)]})


def hub_rows(count: int, first: int = 0) -> Dataset:
    return Dataset(table(count, first=first)).cast_column("image", datasets.Image())


def check(rows: Dataset, count: int, first: int = 0, image: str = "image") -> None:
    assert len(rows) == count
    assert image_column(rows) == image
    assert sorted(picture.getpixel((0, 0)) for picture in rows[image]) == [color(first + i) for i in range(count)]


def complaint(source: str | Path, **options) -> str:
    with pytest.raises(ArgumentError) as raised:
        load_rows(str(source), **options)
    assert raised.value.argument == "train"
    assert "\n" not in raised.value.message
    return raised.value.message


def test_emoji(capfd):
    rows = {split: load_rows(f"emoji/{split}") for split in ("train", "cells", "style", "concepts", "all")}
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 7767, "cells": 814, "style": 1819, "concepts": 550, "all": 10950,
    }  # fmt: skip
    for split in ("train", "cells", "style", "concepts"):
        assert set(rows[split]["split"]) == {split}
    assert len(load_rows("emoji")) == 7767
    assert load_rows("emoji/cells")[0]["image"].size == (64, 64)
    assert not rows["train"].cache_files  # read where it lies, nothing written
    assert capfd.readouterr() == ("", "")


def test_emoji_has_no_such_split():
    assert complaint("emoji/cell") == "the emoji set has no split 'cell'; it has train, cells, style, concepts and all"


def test_parquet(tmp_path, capfd):
    pq.write_table(table(3), tmp_path / "a.parquet")
    pq.write_table(table(2, first=3), tmp_path / "b.parquet")
    check(load_rows(str(tmp_path / "a.parquet")), 3)
    check(load_rows(str(tmp_path / "*.parquet")), 5)
    check(load_rows(str(tmp_path / "**/*.parquet")), 5)
    assert load_rows(str(tmp_path / "a.parquet")).cache_files  # memory-mapped
    assert capfd.readouterr() == ("", "")  # no progress bar where nobody watches


def test_parquet_of_bare_bytes(tmp_path):
    named = pa.table({"jpeg": [png(0), png(1)], "txt": ["x", "y"]})
    pq.write_table(named, tmp_path / "b.parquet")
    check(load_rows(str(tmp_path / "b.parquet")), 2, image="jpeg")
    bare = pa.table({"jpg": [png(0), png(1)], "txt": ["x", "y"]})
    pq.write_table(bare, tmp_path / "a.parquet")
    check(load_rows(str(tmp_path / "a.parquet")), 2, image="jpg")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_paths_are_relative_to_the_file_that_holds_them(pictures, kind, monkeypatch):
    monkeypatch.chdir("/")
    file = pictures / f"rows.{kind}"
    if kind in ("csv", "tsv"):
        comma = {"csv": ",", "tsv": "\t"}[kind]
        file.write_text("\n".join([f"caption{comma}filepath", *(f"c{comma}{name}" for name in NAMES)]))
    elif kind == "parquet":
        pq.write_table(pa.table({"filepath": NAMES, "caption": ["c"] * 4}), file)
    else:
        rows = [{"filepath": name, "caption": "c"} for name in NAMES]
        file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    check(load_rows(str(file)), 4, image="filepath")


def test_paths_may_be_absolute_or_in_a_struct(pictures):
    paths = [{"bytes": None, "path": str(pictures / NAMES[0])}, {"bytes": None, "path": NAMES[1]}]
    pq.write_table(pa.table({"image": paths, "caption": ["c"] * 2}), pictures / "rows.parquet")
    check(load_rows(str(pictures / "rows.parquet")), 2)
    shutil.move(pictures / "rows.parquet", pictures.parent / "rows.parquet")
    assert load_rows(str(pictures.parent / "rows.parquet"))[0]["image"].getpixel((0, 0)) == color(0)


def test_paths_of_files_in_several_folders(tmp_path):
    for number in range(2):
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        (folder / "a.png").write_bytes(png(number))
        (folder / "rows.csv").write_text("image,caption\na.png,x")
    check(load_rows(str(tmp_path / "*/rows.csv")), 2)


def test_a_column_of_any_name(pictures):
    (pictures / "rows.csv").write_text("photo,caption\na.png,x")
    assert load_rows(str(pictures / "rows.csv"), image="photo")[0]["photo"].getpixel((0, 0)) == color(0)
    with pytest.raises(ArgumentError, match=r"image: no column is known.*photo \(\w+\), caption \(\w+\)"):
        image_column(load_rows(str(pictures / "rows.csv")))
    with pytest.raises(ArgumentError, match=r"image: there is no column 'foto'; did you mean 'photo'\?"):
        image_column(load_rows(str(pictures / "rows.csv"), image="foto"), "foto")


def test_a_column_that_holds_no_images():
    rows = Dataset.from_dict({"image": [1, 2], "caption": ["a", "b"]})
    with pytest.raises(ArgumentError, match=r"image: 'image' holds no images \(found image \(int64\)"):
        image_column(rows, "image")
    typed = Dataset.from_dict({"image": [1], "picture": [{"bytes": png(1), "path": None}]})
    assert image_column(typed.cast_column("picture", datasets.Image())) == "picture"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_image_folder(pictures, kind, capfd):
    if kind == "csv":
        (pictures / "metadata.csv").write_text("file_name,caption\n" + "\n".join(f"{n},of {n}" for n in NAMES))
    elif kind == "jsonl":
        lines = [json.dumps({"file_name": name, "caption": f"of {name}"}) for name in NAMES]
        (pictures / "metadata.jsonl").write_text("\n".join(lines))
    else:
        columns = {"file_name": NAMES, "caption": [f"of {name}" for name in NAMES]}
        pq.write_table(pa.table(columns), pictures / "metadata.parquet")
    rows = load_rows(str(pictures))
    check(rows, 4)
    assert sorted(rows["caption"]) == sorted(f"of {name}" for name in NAMES)
    assert capfd.readouterr() == ("", "")


def test_image_folder_with_a_folder_a_split(tmp_path):
    for number, split in enumerate(["train", "validation"]):
        (tmp_path / split).mkdir()
        (tmp_path / split / "x.png").write_bytes(png(number))
        (tmp_path / split / "metadata.csv").write_text("file_name,caption\nx.png,c")
    check(load_rows(str(tmp_path)), 1)
    check(load_rows(str(tmp_path), "validation"), 1, first=1)


def test_images_without_metadata_do_not_count(pictures):
    (pictures / "metadata.csv").write_text("file_name,caption\na.png,x\n")
    check(load_rows(str(pictures)), 1)


def test_saved_to_disk(tmp_path):
    hub_rows(3).save_to_disk(tmp_path / "one")
    DatasetDict(train=hub_rows(3), test=hub_rows(2, 3)).save_to_disk(tmp_path / "several")
    check(load_rows(str(tmp_path / "one")), 3)
    check(load_rows(str(tmp_path / "one"), "validation"), 3)  # its only one
    check(load_rows(str(tmp_path / "several")), 3)
    check(load_rows(f"{tmp_path}/several:test"), 2, first=3)
    assert complaint(tmp_path / "several", split="validation").endswith(
        f"has no split 'validation'; it has train, test: name one, as in {tmp_path}/several:train"
    )
    assert "has no split 'tset'" in complaint(f"{tmp_path}/several:tset")
    assert "has no split 'test'" in complaint(f"{tmp_path}/one:test")


@pytest.mark.parametrize("validation", ["validation", "val", "dev"])
@pytest.mark.parametrize("card", [False, True])
def test_the_hubs_layout(tmp_path, card, validation, capfd):
    (tmp_path / "data").mkdir()
    for split, rows in {"train": hub_rows(4), validation: hub_rows(2, 4)}.items():
        rows.to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    if card:
        files = [{"split": split, "path": f"data/{split}-*"} for split in ("train", validation)]
        (tmp_path / "README.md").write_text(
            f"---\nconfigs: {json.dumps([{'config_name': 'a', 'data_files': files}])}\n---\n"
        )
    capfd.readouterr()
    check(load_rows(str(tmp_path)), 4)
    check(load_rows(str(tmp_path), "validation"), 2, first=4)
    check(load_rows(f"{tmp_path}:validation"), 2, first=4)
    check(load_rows(f"{tmp_path}:train", "validation"), 4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prefix", ["", "../"])
def test_the_hubs_layout_with_paths(pictures, prefix):
    (pictures / "data").mkdir()
    for split, names in {"train": NAMES[:3], "test": NAMES[3:]}.items():
        (pictures / f"data/{split}.csv").write_text(
            "image,caption\n" + "".join(f"{prefix}{name},x\n" for name in names)
        )
    files = [{"split": split, "path": f"data/{split}.csv"} for split in ("train", "test")]
    (pictures / "README.md").write_text(
        f"---\nconfigs: {json.dumps([{'config_name': 'a', 'data_files': files}])}\n---\n"
    )
    check(load_rows(str(pictures)), 3)  # relative to the whole or to the file, whichever is there
    check(load_rows(f"{pictures}:test"), 1, first=3)


def test_a_hub_name_that_cannot_be_reached():
    message = complaint("somebody/something")
    assert "'somebody/something' is no file or folder here" in message
    assert "Offline" in message


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    asked = []

    def unreachable(self, name, **options):
        asked.append((name, options["timeout"]))
        raise RuntimeError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: pytest.fail("it would try again and again"))
    assert "no route to host" in complaint("somebody/something")
    assert asked == [("somebody/something", 10)]


def test_nothing_there(tmp_path, monkeypatch):
    pq.write_table(table(), tmp_path / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    assert complaint("row.parquet") == "there is nothing at 'row.parquet'; did you mean 'rows.parquet'?"
    assert complaint(tmp_path / "rowes.parquet").endswith(f"rowes.parquet'; did you mean '{tmp_path}/rows.parquet'?")
    assert complaint("/no/such/place") == "there is nothing at '/no/such/place' (not even the folder '/no/such')"
    assert "is an address: what lies there is streamed" in complaint("https://host/x.parquet")
    assert complaint("a/b/c").startswith("there is nothing at 'a/b/c'")
    assert complaint("*.csv") == "no file matches '*.csv'"
    assert "did you mean 'rows.parquet'?" in complaint("rows.parque")  # might be a hub's name


def test_what_cannot_be_read(tmp_path, capfd):
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "empty").mkdir()
    assert "bad.parquet' cannot be read" in complaint(tmp_path / "bad.parquet")
    assert complaint(tmp_path / "a.txt").startswith(".txt: give files of one of the kinds .parquet, .csv")
    assert complaint(tmp_path / "*a*").startswith(".parquet, .txt: give files")
    assert "cannot be read: The directory" in complaint(tmp_path / "empty")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("datasets").level == datasets.logging.get_verbosity() < logging.CRITICAL


def test_a_name_with_magic_in_it(tmp_path):
    folder = tmp_path / "odd [1]"
    folder.mkdir()
    pq.write_table(table(), folder / "rows:a.parquet")
    check(load_rows(str(folder / "rows:a.parquet")), 3)
    hub_rows(2).save_to_disk(folder / "set:test")
    check(load_rows(str(folder / "set:test")), 2)


def test_columns():
    rows = Dataset.from_dict({"caption": ["a"], "concept": [1]})
    require_columns(rows, ["caption", "concept"], "extra")
    with pytest.raises(ArgumentError) as raised:
        require_columns(rows, ["concpt"], "extra")
    assert raised.value.argument == "extra"
    assert raised.value.message == "there is no column 'concpt'; did you mean 'concept'? (found caption, concept)"
    assert guess_column(rows, None, ["text", "concept"], "x") == guess_column(rows, "concept", [], "x") == "concept"
    with pytest.raises(
        ArgumentError, match=r"label: none of the usual columns \(y\) is there \(found caption, concept\)"
    ):
        guess_column(rows, None, ["y"], "label")


def test_folders_of_one_name_and_a_folder_written_anew(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"

    def write(folder, caption):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        table = pa.table({"image": ["x.png"] * 3, "caption": [caption] * 3})
        pq.write_table(table, folder / "data/train-00000-of-00001.parquet")
        return load_rows(str(folder))["caption"][0]

    assert write(tmp_path / "a/set", "first") == "first"
    assert write(tmp_path / "b/set", "second") == "second"
    assert write(tmp_path / "a/set", "third") == "third"
