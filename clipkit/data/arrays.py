"""The fast way from encoded pictures to pixels: uint8 arrays (H, W, 3) from decoder to batch, no PIL image in between.

Only what is plain is read here, a JPEG in grey or YCbCr that lies upright and an RGB PPM, which is how packed sets hold
raw pixels. Pillow decides about all the rest, whatever is damaged included, so what is accepted is the same either way.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from clipkit.data.images import STRETCH, fit_image, place
from clipkit.data.local import open_file
from clipkit.data.skips import MOST_PIXELS
from clipkit.types import InputSpec

__all__ = ["Pixels", "fit_array", "read_array", "stretch"]

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB; often a view, and read-only."""

MOST_BYTES = 400_000_000  # of a file; more than `MOST_PIXELS` take in any JPEG that is one
PPM = re.compile(rb"P6\n(\d{1,9}) (\d{1,9})\n255\n")
TURNED = (b"Exif\0\0", b"tiff:Orientation")  # a JPEG with neither of these in its header lies as it is stored
SCAN = 0xDA
SHRUNK = 4 / 3
ANTIALIASED = ("bicubic", "bilinear")


def read_array(value: Any, side: int = 0) -> Pixels | None:
    """The pixels of a plain JPEG or PPM.

    Args:
        value: A path, encoded bytes or a buffer of such, or the ``{"bytes", "path"}`` of a data set.
        side: What it will be shrunk to. A JPEG of at least ``SHRUNK`` times as many pixels a side is decoded by the
            quicker of libjpeg's transforms and without smoothing its colours, which changes it by about a grey level
            before it is shrunk (42 dB after, at least, on photographs); any other, and all with 0, as Pillow does.

    Returns:
        (H, W, 3) uint8, of a PPM a view of its bytes; or None where ``open_image`` is to look, since it is something
        else, needs turning, is too large, or has a fault of any kind.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    data = _read_file(value) if isinstance(value, str | Path) else value
    if not isinstance(data, bytes | memoryview):
        return None
    start = bytes(data[:3])
    if start == b"\xff\xd8\xff":
        return _jpeg(data, side)
    return _ppm(data) if start == b"P6\n" else None


def stretch(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Resize, with antialiasing.

    Args:
        pixels: (H, W, 3) uint8, a view will do.
        height: Of the result.
        width: Of the result.
        interpolation: One of Pillow's; ``bicubic`` and ``bilinear`` are fast, and differ from Pillow's by rounding.

    Returns:
        (height, width, 3) uint8; ``pixels`` itself where it has that size.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation not in ANTIALIASED:
        filter_ = getattr(Image.Resampling, interpolation.upper())
        return np.asarray(Image.fromarray(pixels).resize((width, height), filter_))
    # Of contiguous rows, which PyTorch would make too, and writable, which it wants; its fast way is channels-last.
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = pixels.copy()
    image = torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)  # (1, 3, H, W)
    made = torch.nn.functional.interpolate(image, (height, width), mode=interpolation, antialias=True)
    return made[0].permute(1, 2, 0).numpy()


def fit_array(pixels: Pixels, spec: InputSpec, rng: np.random.Generator | None = None) -> Pixels:
    """As ``fit_image``, by the same draws: resize to cover ``spec.image_size``, then crop that out, as a view.

    Args:
        pixels: (H, W, 3) uint8.
        spec: The model's inputs.
        rng: Draws where the crop lies; central without one.

    Returns:
        (*spec.image_size, 3) uint8.
    """
    height, width = spec.image_size
    if pixels.shape[:2] == (height, width):
        return pixels
    whole, _, _ = place(pixels.shape[1], pixels.shape[0], spec, None)
    if whole[0] * whole[1] > STRETCH * width * height:
        return np.asarray(fit_image(Image.fromarray(pixels), spec, rng))
    _, left, top = place(pixels.shape[1], pixels.shape[0], spec, rng)
    return stretch(pixels, whole[1], whole[0], spec.interpolation)[top : top + height, left : left + width]


def _read_file(path: str | Path) -> bytes | None:
    """All of a JPEG or PPM, or None."""
    try:
        with open_file(path) as file:
            start = file.read(3)
            plain = start in (b"\xff\xd8\xff", b"P6\n") and os.fstat(file.fileno()).st_size <= MOST_BYTES
            return start + file.read() if plain else None
    except OSError:
        return None


def _jpeg(data: bytes | memoryview, side: int) -> Pixels | None:
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MOST_PIXELS or space not in ("Gray", "YCbCr") or _is_turned(data):
            return None
        quick = min(height, width) >= SHRUNK * side > 0
        # Strict: where libjpeg would go on with a warning, Pillow is asked whether that much damage is too much.
        decoded: Pixels = simplejpeg.decode_jpeg(data, fastdct=quick, fastupsample=quick)
    except Exception:  # its errors are ValueErrors and others; Pillow tells what is wrong
        return None
    return decoded


def _is_turned(data: bytes | memoryview) -> bool:
    header = bytes(data[: _header_end(data)])
    if not any(mark in header for mark in TURNED):
        return False
    orientation = Image.open(io.BytesIO(data), formats=["JPEG"]).getexif().get(ExifTags.Base.Orientation, 1)
    return bool(orientation != 1)


def _header_end(data: bytes | memoryview) -> int:
    """Where the first scan begins; to search all of the data for a mark takes as long as a resize."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != SCAN:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place if place + 4 <= len(data) and data[place] == 0xFF else len(data)


def _ppm(data: bytes | memoryview) -> Pixels | None:
    header = PPM.match(data)
    if header is None:
        return None
    width, height = int(header[1]), int(header[2])
    if not 0 < width * height <= MOST_PIXELS or len(data) != header.end() + 3 * width * height:
        return None
    return np.frombuffer(data, dtype=np.uint8, offset=header.end()).reshape(height, width, 3)
