"""Malformed input of every kind through the real loader: nothing crashes, all is counted, the rest is trained on."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipkit.data import CaptionDataModule, unpack_skips
from clipkit.data.skips import reason_of

GOOD = 64


def picture(kind="PNG", mode="RGB", size=(20, 16), **options):
    rng = np.random.default_rng(5)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bits(kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.arange(320, dtype=np.uint16).reshape(16, 20) * 200).save(file, kind)
    return file.getvalue()


def floats():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((8, 8), dtype=np.float32)).save(file, "TIFF")
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def several(kind):
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture("JPEG", exif=exif)


PNG, JPEG, WEBP = picture("PNG"), picture("JPEG"), picture("WEBP")
HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"
DATA = PNG.index(b"IDAT")

# Name to (image bytes, the reason it is skipped for).
IMAGES = {
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "undecodable"),
    "truncated png": (PNG[: len(PNG) // 2], "undecodable"),
    "truncated webp": (WEBP[: len(WEBP) // 2], "undecodable"),
    "truncated gif": (picture("GIF")[:200], "not_an_image"),
    "truncated tiff": (picture("TIFF")[:300], "undecodable"),
    "truncated bmp": (picture("BMP")[:100], "undecodable"),
    "jpeg of a header alone": (JPEG[:20], "not_an_image"),
    "flipped png data": (flipped(PNG, DATA + 40), "undecodable"),
    "flipped png header": (flipped(PNG, 18), "not_an_image"),
    "flipped png magic": (flipped(PNG, 1), "not_an_image"),
    "flipped jpeg magic": (flipped(JPEG, 1), "not_an_image"),
    "flipped webp magic": (flipped(WEBP, 9), "not_an_image"),
    "flipped webp data": (flipped(WEBP, 20), "undecodable"),
    "png without data": (png_of(8, 8), "undecodable"),
    "png with wrong zlib": (png_of(8, 8, chunk(b"IDAT", b"not zlib at all")), "undecodable"),
    "png of no width": (png_of(0, 8, chunk(b"IDAT", zlib.compress(b""))), "not_an_image"),
    "bomb": (png_of(11_000, 11_000, chunk(b"IDAT", zlib.compress(b"\0" * 10_000))), "too_large"),
    "gigantic": (png_of(60_000, 60_000, chunk(b"IDAT", zlib.compress(b"\0" * 10_000))), "too_large"),
    "gigantic gif": (b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x3b", "not_an_image"),
    "html": (HTML, "not_an_image"),
    "text": (b"this is no picture", "not_an_image"),
    "zeros": (b"\0" * 500, "not_an_image"),
    "noise": (np.random.default_rng(1).bytes(500), "not_an_image"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "not_an_image"),
    "pdf": (b"%PDF-1.4 \n%%EOF", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "pickle": (b"\x80\x04cos\nsystem\n", "not_an_image"),
    "floats": (floats(), "unknown_range"),
    "zero bytes": (b"", "no_image"),
}
LEGAL = {
    "cmyk": picture("JPEG", "CMYK"),
    "grey": picture("JPEG", "L"),
    "grey with alpha": picture("PNG", "LA"),
    "bilevel": picture("PNG", "1"),
    "16 bits": sixteen_bits(),
    "16-bit pgm": sixteen_bits("PPM"),
    "palette with alpha": picture("PNG", "P", transparency=3),
    "rgba": picture("PNG", "RGBA"),
    "animated gif": several("GIF"),
    "animated webp": several("WEBP"),
    "animated png": several("PNG"),
    "1 x N": picture("PNG", size=(1, 4000)),
    "N x 1": picture("PNG", size=(4000, 1)),
    "1 x 1": picture("PNG", size=(1, 1)),
    "trailing rubbish": PNG + b"rubbish" * 50,
    **{f"exif {orientation}": turned(orientation) for orientation in range(1, 9)},
    "exif 99": turned(99),
}
CAPTIONS = {
    "1 MB": "word " * 200_000,
    "1 MB in one word": "a" * 1_000_000,
    "control characters": "a\x00b\x07\x1b[31m",
    "right to left": "\u202eabc\u202c",
    "half a pair": "caf\u00e9 \ufffd",
    "only punctuation": "... !!! ???",
}


def text_of(raw):
    """A string column of these bytes, checked by nobody: as a careless writer leaves it."""
    offsets = np.cumsum([0, *map(len, raw)], dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(raw), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(raw))]
    )


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
    assert reason_of(OSError(5, "Input/output error")) == "undecodable"
