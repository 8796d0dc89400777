"""Malformed input of every kind through the real loader: nothing crashes, all is counted, the rest is trained on."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipkit.data import CaptionDataModule, unpack_skips
from clipkit.data.skips import reason_of
from clipkit.types import ArgumentError

from .malformed import CAPTIONS, HTML, IMAGES, LEGAL, PNG, picture, text_of

GOOD, BATCH = 64, 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A parquet file with one row of each kind among good ones, whole batches of them, and row to reason."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "a.png").mkdir()
    images, captions, reasons = [], [], {}

    def add(image, caption, reason):
        reasons[len(images)] = reason
        images.append(image)
        captions.append(caption)

    for data, reason in IMAGES.values():
        add({"bytes": data, "path": "x.jpg"}, b"an image", reason)
    add(None, b"nothing", "no_image")
    add({"bytes": None, "path": str(folder / "none.png")}, b"no file", "missing_file")
    add({"bytes": None, "path": str(folder / "a.png")}, b"a folder", "unreadable_file")
    os.mkfifo(folder / "pipe.png")  # nobody will ever write to it
    add({"bytes": None, "path": str(folder / "pipe.png")}, b"a pipe", "unreadable_file")
    add({"bytes": None, "path": str(folder / "a.png/../rows.txt")}, b"another file", "not_an_image")
    (folder / "rows.txt").write_text("no image")
    for caption, reason in ((b"\xff\xfe\xfa broken", "bad_text"), (b"", "no_caption"), (b" \n\t", "no_caption")):
        add({"bytes": PNG, "path": None}, caption, reason)
    add({"bytes": PNG, "path": None}, "thing".encode("utf-16"), "bad_text")
    for data in LEGAL.values():
        add({"bytes": data, "path": None}, b"legal", None)
    for caption in CAPTIONS.values():
        add({"bytes": PNG, "path": None}, caption.encode(), None)
    kinds = len(images)
    while len(images) < kinds + GOOD or len(images) % BATCH:
        add({"bytes": picture(size=(16 + len(images) % 5, 16)), "path": None}, f"thing {len(images)}".encode(), None)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "text": text_of(captions)})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet", reasons


def loaded(spec, source, **how):
    data = CaptionDataModule(str(source), image="image", caption="text", **how)
    data.inputs = spec
    return data


def epoch(corpus, spec, workers, batch_size=BATCH, decode="fast"):
    data = loaded(spec, corpus[0], batch_size=batch_size, workers=workers, decode=decode)
    return data, list(data.train_dataloader())


def left_out(batch):
    """For each sample the rows and the reasons of what was left out for it, in order."""
    for row in batch.extra["skipped"]:
        yield [(int(one.key.removeprefix("row ")), one.reason) for one in unpack_skips(row[None])]


@pytest.mark.filterwarnings("ignore:.*have no caption")
@pytest.mark.parametrize(("workers", "decode"), [(0, "fast"), (2, "fast"), (2, "reference")])
def test_all_are_counted_and_the_rest_is_trained_on(corpus, spec, workers, decode):
    _, reasons = corpus
    bad = {row: reason for row, reason in reasons.items() if reason}
    assert len(reasons) - GOOD - BATCH >= 65 and len(bad) >= 40
    data, batches = epoch(corpus, spec, workers, decode=decode)
    due = [key.row for keys in data.training.batches for key in keys]
    assert sorted(due) == sorted(reasons)  # every kind has its turn, and once
    used = [row for batch in batches for row in batch.concept.tolist()]
    skips = [found for batch in batches for found in left_out(batch)]
    for row, instead, found in zip(due, used, skips, strict=True):
        tried = [number for number, _ in found] + [instead]  # the row whose turn it is, then what was drawn for it
        assert tried[0] == row and instead not in bad
        assert [reason for _, reason in found] == [bad[number] for number in tried[:-1]]
    turns = Counter(found[0][1] for found in skips if found)
    assert turns == Counter(bad.values())
    assert all(batch.image.dtype == torch.uint8 and batch.image.shape[1:] == (3, *spec.image_size) for batch in batches)
    digests = {one.sha256 for batch in batches for one in unpack_skips(batch.extra["skipped"])}
    assert {hashlib.sha256(data).hexdigest() for data, _ in IMAGES.values()} <= digests


@pytest.mark.filterwarnings("ignore:.*have no caption")
def test_the_same_whatever_the_workers(corpus, spec):
    alone, shared = (epoch(corpus, spec, workers)[1] for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.concept, other.concept)
        assert torch.equal(one.extra["skipped"], other.extra["skipped"])


@pytest.mark.filterwarnings("ignore:.*have no caption")
def test_the_same_however_they_are_decoded(corpus, spec):
    for fast, exact in zip(
        *(epoch(corpus, spec, 0, decode=decode)[1] for decode in ("fast", "reference")), strict=True
    ):
        assert (fast.image.int() - exact.image.int()).abs().float().mean() < 5  # colours of noise differ most
        assert torch.equal(fast.position, exact.position) and torch.equal(fast.concept, exact.concept)
        assert torch.equal(fast.tokens, exact.tokens)
        assert torch.equal(fast.extra["skipped"], exact.extra["skipped"])


def rows_of(begin, end):
    images = [{"bytes": picture(size=(9 + i, 8)), "path": None} for i in range(begin, end)]
    return pa.table({"image": images, "text": [f"thing {i}" for i in range(begin, end)]})


TABLES = {
    "foreign schema": lambda path: pq.write_table(pa.table({"a": [1], "b": ["x"]}), path),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:1500]),
    "zero": lambda path: path.write_bytes(b""),
    "html": lambda path: path.write_bytes(HTML),
    "zeros within": lambda path: path.write_bytes(path.read_bytes()[:500] + bytes(900) + path.read_bytes()[1400:]),
}


@pytest.mark.parametrize("pattern", ["", "/part-*.parquet"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_damaged_table_among_others_is_named(tmp_path, spec, kind, pattern):
    """Rows are numbered over all files, so nothing is left out in silence; as a stream it is a counted skip."""
    for part in range(4):
        pq.write_table(rows_of(part * 6, part * 6 + 6), tmp_path / f"part-{part}.parquet")
    TABLES[kind](tmp_path / "part-2.parquet")
    at_fault = f"cannot be read, because of '{tmp_path}/part-2.parquet': "
    with pytest.raises(ArgumentError, match=f"^train: '{re.escape(f'{tmp_path}{pattern}')}' {re.escape(at_fault)}"):
        loaded(spec, f"{tmp_path}{pattern}", batch_size=2)


def csv_of(captions):
    return "image,text\n" + "".join(f"x.png,{text}\n" for text in captions)


def lines_of(captions):
    return "".join(f'{{"image": "x.png", "text": {text}}}\n' for text in captions)


CSV = ["good", "NaN", "", "nan", "None", " ", "5", "fine"]
JSON = ['"good"', "NaN", '""', "5", "null", '{"en": "thing"}', '["thing"]', "true", *[f'"fine {i}"' for i in range(8)]]
LISTS = ["[]", "null", '["", null, " "]', '["good", null]', '[null, "fine"]']


@pytest.mark.filterwarnings("ignore:.*have no caption")
@pytest.mark.parametrize(
    ("file", "text", "bad"),
    [
        ("rows.csv", csv_of(CSV), {1, 2, 3, 4, 5}),
        ("rows.jsonl", lines_of(JSON), {1, 2, 3, 4, 5, 6, 7}),
        ("rows.jsonl", lines_of(LISTS), {0, 1, 2}),
    ],
    ids=["csv", "json", "lists"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_captions_that_are_none_are_counted(tmp_path, spec, file, text, bad, workers):
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / file).write_text(text, encoding="utf-8")
    data = loaded(spec, tmp_path / file, batch_size=1, workers=workers)
    batches = list(data.train_dataloader())
    skips = [found for batch in batches for found in left_out(batch)]
    assert {found[0] for found in skips if found} == {(row, "no_caption") for row in bad}
    used = {row for batch in batches for row in batch.concept.tolist()}
    assert used == set(range(len(batches))) - bad  # the good ones each have a turn
    assert sum(bool(found) for found in skips) == len(bad)


def test_a_column_without_any_text_is_refused(tmp_path, spec):
    (tmp_path / "x.png").write_bytes(PNG)
    for name, text in (("a.csv", csv_of(["1", "2.5"])), ("a.jsonl", lines_of(["NaN", "1"]))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ArgumentError, match=r"^caption: 'text' holds double, neither text nor lists of text"):
            loaded(spec, tmp_path / name)


def test_a_file_that_may_not_be_read():
    """Permissions stop nobody who is root, so the refusal is made up."""
    assert reason_of(PermissionError(13, "Permission denied")) == "unreadable_file"
    assert reason_of(OSError(5, "Input/output error")) == "unreadable_file"
    assert reason_of(OSError("image file is truncated")) == "undecodable"  # as Pillow says it
