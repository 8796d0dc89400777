"""Malformed input of every kind through the real loader: nothing crashes, all is counted, the rest is trained on."""

from __future__ import annotations

import hashlib
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipkit.data import CaptionDataModule, unpack_skips
from clipkit.data.skips import reason_of

from .malformed import CAPTIONS, IMAGES, LEGAL, PNG, picture, text_of

GOOD = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A parquet file with one row of each kind among good ones, and row to reason."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "a.png").mkdir()
    images = [{"bytes": picture(size=(16 + i % 5, 16)), "path": None} for i in range(GOOD)]
    captions = [f"thing {i}".encode() for i in range(GOOD)]
    reasons = dict.fromkeys(range(GOOD))

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
    add({"bytes": PNG, "path": None}, b"\xff\xfe\xfa broken", "bad_text")
    for data in LEGAL.values():
        add({"bytes": data, "path": None}, b"legal", None)
    for caption in CAPTIONS.values():
        add({"bytes": PNG, "path": None}, caption.encode(), None)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "text": text_of(captions)})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet", reasons


def epoch(corpus, spec, workers, batch_size=8, decode="fast"):
    how = {"batch_size": batch_size, "workers": workers, "decode": decode}
    data = CaptionDataModule(str(corpus[0]), image="image", caption="text", **how)
    data.inputs = spec
    return data, list(data.train_dataloader())


@pytest.mark.parametrize(("workers", "decode"), [(0, "fast"), (2, "fast"), (2, "reference")])
def test_all_are_counted_and_the_rest_is_trained_on(corpus, spec, workers, decode):
    _, reasons = corpus
    assert len(IMAGES) + len(LEGAL) + len(CAPTIONS) + 5 >= 40
    data, batches = epoch(corpus, spec, workers, batch_size=5, decode=decode)
    seen = {key.row for keys in data.training.batches for key in keys}
    skips = [one for batch in batches for one in unpack_skips(batch.extra["skipped"])]
    found = {int(one.key.removeprefix("row ")): one.reason for one in skips}
    expected = {row: reason for row, reason in reasons.items() if reason and row in seen}
    assert {row: found[row] for row in expected} == expected
    assert set(found) <= {row for row, reason in reasons.items() if reason}
    used = sum(len(batch.image) for batch in batches)
    assert used == len(seen) == 5 * (len(reasons) // 5)
    assert all(batch.image.dtype == torch.uint8 and batch.image.shape[1:] == (3, *spec.image_size) for batch in batches)
    digest = {one.sha256 for one in skips if one.reason == "too_large"}
    assert digest <= {hashlib.sha256(IMAGES[name][0]).hexdigest() for name in ("bomb", "gigantic")}
    assert Counter(found.values())["not_an_image"] >= 8


def test_the_same_whatever_the_workers(corpus, spec):
    alone, shared = (epoch(corpus, spec, workers)[1] for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.concept, other.concept)
        assert torch.equal(one.extra["skipped"], other.extra["skipped"])


def test_the_same_however_they_are_decoded(corpus, spec):
    for fast, exact in zip(
        *(epoch(corpus, spec, 0, decode=decode)[1] for decode in ("fast", "reference")), strict=True
    ):
        assert (fast.image.int() - exact.image.int()).abs().float().mean() < 5  # colours of noise differ most
        assert torch.equal(fast.position, exact.position) and torch.equal(fast.concept, exact.concept)
        assert torch.equal(fast.tokens, exact.tokens)
        assert torch.equal(fast.extra["skipped"], exact.extra["skipped"])


def test_bombs_are_known_by_their_header(corpus, spec):
    """121 and 3,600 million pixels; nothing of that size is ever made."""

    def high_water():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = high_water()
    epoch(corpus, spec, workers=0)
    assert high_water() - before < 200_000  # kB; 11,000 x 11,000 pixels in three channels would be 363,000


def test_a_file_that_may_not_be_read():
    """Permissions stop nobody who is root, so the refusal is made up."""
    assert reason_of(PermissionError(13, "Permission denied")) == "unreadable_file"
    assert reason_of(OSError(5, "Input/output error")) == "unreadable_file"
    assert reason_of(OSError("image file is truncated")) == "undecodable"  # as Pillow says it
