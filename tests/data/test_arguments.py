"""Every argument of a data module that cannot be right is named, before there is a model."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from clipkit.data import CaptionDataModule
from clipkit.data.arguments import check_images
from clipkit.types import ArgumentError


@pytest.fixture
def refused(make):
    def check(argument: str, match: str, source, **options) -> None:
        with pytest.raises(ArgumentError, match=match) as raised:
            make(source, **options)
        assert raised.value.argument == argument
        assert "\n" not in raised.value.message

    return check


def test_what_is_refused(folder, refused):
    refused("train", "there is nothing at './none'", "./none")
    refused("val", "there is nothing at './none'", folder, val="./none")
    refused("val", "has no split 'test'; it has train, validation", folder, val=f"{folder}:test")
    refused("val", "is the training set", folder, val=f"{folder}:train")
    refused("val_fraction", "1.0 is not in", folder, val_fraction=1.0)
    refused("val_fraction", "not both", folder, val_fraction=0.1, val="emoji")
    refused("val_fraction", "no row is left for validation", folder, val_fraction=1e-9)
    refused("val_fraction", "no row is left for training", folder, val_fraction=1 - 1e-9)
    refused("batch_size", "42 is more than the 41 training rows", folder, batch_size=42)
    refused("batch_size", "0 is less than 1", folder, batch_size=0)
    refused(
        "batch_size", "12 is more than the 11 distinct", folder, batch_size=12, concept="kind", distinct_concepts=True
    )
    refused("workers", "less than 0", folder, workers=-1)
    refused("seed", "less than 0", folder, seed=-1)
    refused("image", r"no column 'imag'; did you mean 'image'", folder, image="imag")
    refused("image", r"'size' holds no images \(found image", folder, image="size")
    refused("caption", r"no column 'caption'; did you mean 'captions'", folder, caption="caption")
    refused("caption", "'kind' holds int64", folder, caption="kind")
    refused("concept", "no column 'kinds'; did you mean 'kind'", folder, concept="kinds")
    refused("concept", "'tags' holds lists", folder, concept="tags")
    refused("distinct_concepts", "name the column", folder, distinct_concepts=True)
    refused("extra", "no column 'sizes'; did you mean 'size'", folder, extra=["sizes"])
    refused("extra", "'style' holds string", folder, extra=["style"])
    refused("languages", "name the column", folder, languages=["en"])
    refused("language_column", "did you mean 'languages'", folder, language_column="language")
    refused(
        "languages", "no caption is in 'eng'; did you mean 'en'", folder, language_column="languages", languages=["eng"]
    )
    refused("templates", "exactly one", folder, templates=["photo"])


def test_validation_does_not_fit(folder, tmp_path, columns, refused):
    def refuse(match, change, **options):
        made = {**columns(range(8)), **change}
        pq.write_table(pa.table({k: v for k, v in made.items() if v is not None}), tmp_path / "val.parquet")
        refused("val", match, folder, val=str(tmp_path / "val.parquet"), **options)

    refuse("is a column of text", {"captions": None})
    refuse("'captions' holds int64", {"captions": list(range(8))})
    refuse("'image' holds no images", {"image": list(range(8))})
    refuse("no column 'languages'", {"languages": None}, language_column="languages", languages=["en"])
    refuse("no column 'size'", {"size": None}, extra=["size"])
    refuse("'size' holds string", {"size": ["a"] * 8}, extra=["size"])
    refuse("no column 'kind'", {"kind": None}, concept="kind")
    refuse("no row has a caption", {"captions": [[]] * 7 + [[""]]})


def test_images_are_opened_when_it_is_made(tmp_path, columns, refused):
    made = columns(range(8))
    made["image"][:7] = [{"bytes": b"broken", "path": None}] * 7
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    CaptionDataModule(str(tmp_path / "rows.parquet"), batch_size=2)  # one good one is enough
    made["image"][7] = {"bytes": b"broken", "path": None}
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    none = "none of 8 rows tried in column 'image' can be opened; row 0: cannot identify"
    refused("image", none, tmp_path / "rows.parquet")
    refused(
        "val",
        none,
        "emoji",
        val=str(tmp_path / "rows.parquet"),
        caption="captions",
    )
    (tmp_path / "rows.csv").write_text("image,text\nnone.png,a\n")
    refused("image", f"can be opened; row 0: .*No such file.*{tmp_path}/none.png", tmp_path / "rows.csv", batch_size=1)
    with pytest.raises(ArgumentError, match="train: there is no row"):
        check_images(Dataset.from_dict({"image": []}), "image", "image")


def test_empty_values_and_reserved_names(folder, tmp_path, columns, refused):
    made = {**columns(range(8)), "truncated": list(range(8))}
    made["kind"][2] = made["size"][2] = None
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    refused("concept", "'kind' has empty values", tmp_path / "rows.parquet", concept="kind")
    refused("extra", "'size' has empty values", tmp_path / "rows.parquet", extra=["size"])
    refused("extra", "rename the column", tmp_path / "rows.parquet", extra=["truncated"])
