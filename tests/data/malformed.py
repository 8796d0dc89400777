"""Pictures, captions and archives as they should not be, and legal ones that look like it: name to content."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
from PIL import Image


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


def resized(jpeg, width, height):
    """A JPEG whose header claims another size."""
    at = next(place for place in range(len(jpeg)) if jpeg[place : place + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def webp_of(side):
    """A WebP whose header claims another size, at most 16,384."""
    data = picture("WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    rest = int.from_bytes(data[at : at + 4], "little") >> 28
    return data[:at] + (rest << 28 | (side - 1) << 14 | (side - 1)).to_bytes(4, "little") + data[at + 4 :]


PNG, JPEG, WEBP = picture("PNG"), picture("JPEG"), picture("WEBP")
HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"
DATA = PNG.index(b"IDAT")
PROGRESSIVE = picture("JPEG", progressive=True)

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
    "flipped jpeg tables": (flipped(JPEG, JPEG.index(b"\xff\xc4") + 3), "undecodable"),
    "flipped webp magic": (flipped(WEBP, 9), "not_an_image"),
    "flipped webp data": (flipped(WEBP, 20), "undecodable"),
    "png without data": (png_of(8, 8), "undecodable"),
    "png with wrong zlib": (png_of(8, 8, chunk(b"IDAT", b"not zlib at all")), "undecodable"),
    "png of no width": (png_of(0, 8, chunk(b"IDAT", zlib.compress(b""))), "not_an_image"),
    "bomb": (png_of(11_000, 11_000, chunk(b"IDAT", zlib.compress(b"\0" * 10_000))), "too_large"),
    "gigantic": (png_of(60_000, 60_000, chunk(b"IDAT", zlib.compress(b"\0" * 10_000))), "too_large"),
    "gigantic gif": (b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x3b", "not_an_image"),
    "jpeg bomb": (resized(JPEG, 11_000, 11_000), "too_large"),
    "gigantic jpeg": (resized(JPEG, 65_000, 65_000), "too_large"),
    "progressive jpeg bomb": (resized(PROGRESSIVE, 20_000, 20_000), "too_large"),
    "jpeg of no width": (resized(JPEG, 0, 16), "not_an_image"),
    "webp bomb": (webp_of(16_384), "too_large"),
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
    "flipped jpeg data": flipped(JPEG, JPEG.index(b"\xff\xda") + 200),  # every decoder makes a picture of it
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


# What stands beside a sample's image, and the reason it is skipped for.
BESIDE = {
    "no caption": ({"json": b'{"width": 1}'}, "no_caption"),
    "empty caption": ({"txt": b""}, "no_caption"),
    "blank caption": ({"txt": b" \n\t"}, "no_caption"),
    "broken caption": ({"txt": b"\xff\xfe\xfa broken"}, "bad_text"),
    "utf-16 caption": ({"txt": "thing".encode("utf-16")}, "bad_text"),
    "enormous caption": ({"txt": b"a" * (17 << 20)}, "too_large"),
    "number for a caption": ({"json": b'{"txt": 5, "width": 1}'}, "bad_text"),
    "nan for a caption": ({"json": b'{"txt": NaN, "width": 1}'}, "bad_text"),
    "object for a caption": ({"json": b'{"txt": {"en": "thing"}, "width": 1}'}, "bad_text"),
    "numbers for captions": ({"json": b'{"txt": [1, 2], "width": 1}'}, "bad_text"),
    "half a letter": ({"json": b'{"txt": "a \\ud800 b", "width": 1}'}, "bad_text"),
    "json cut off": ({"json": b'{"txt": "thing", "wi'}, "bad_text"),
    "json nested without end": ({"json": b"[" * 200_000}, "bad_text"),
    "enormous json": ({"json": b" " * (17 << 20)}, "too_large"),
    "json that is a list": ({"json": b"[1, 2]"}, "no_caption"),
    "no number": ({"txt": b"thing", "json": b"{}"}, "bad_value"),
    "text for a number": ({"txt": b"thing", "json": b'{"width": "12px"}'}, "bad_value"),
    "a number too large": ({"txt": b"thing", "json": b'{"width": 1%s}' % (b"0" * 30)}, "bad_value"),
    "fields of our names": ({"json": b'{"txt": "thing", "width": 1, "image": "a.jpg", "__key__": 5}'}, None),
}


def members(key, image=PNG, **beside):
    """A sample of a shard: image, caption and JSON, unless others are given."""
    beside = beside or {"txt": b"thing"}
    return [
        (f"{key}.png", image),
        *((f"{key}.{kind}", data) for kind, data in {"json": b'{"width": 1}', **beside}.items()),
    ]


def samples(name, count=10):
    """Members of good samples."""
    return [part for number in range(count) for part in members(f"{name}{number}")]


def tar(members, format=tarfile.PAX_FORMAT):
    """An archive of (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def links():
    """An archive of what is no file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("x.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return file.getvalue()


def claims(size):
    """The header of a member that claims to be so large."""
    info = tarfile.TarInfo("large.png")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
