"""Images of any kind to uint8 pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from clipkit.data.local import open_file
from clipkit.data.skips import MOST_PIXELS, Unusable
from clipkit.types import InputSpec

__all__ = ["fit_image", "open_image", "pixels", "place", "to_pixels"]

USUAL_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # "I" is what 16-bit PGM files come as
STRETCH = 16


def open_image(value: Any) -> Image.Image:
    """An upright RGB image of 8 bits a channel, transparency laid on white; of an animation the first frame.

    Args:
        value: A PIL image, a path, encoded bytes or a memoryview of such, a uint8 array (H, W), (H, W, 3) or
            (H, W, 4), or the ``{"bytes", "path"}`` of a data set.

    Raises:
        TypeError: For anything else.
        Unusable: A ValueError, where there is none, it has more than ``MOST_PIXELS`` by its header, or its pixels are
            floats of no known range.
        OSError: Where it cannot be read or decoded.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if value is None or (isinstance(value, str | bytes | memoryview) and not value):
        raise Unusable("no_image", "there is no image")
    if isinstance(value, bytes | memoryview):
        value = _open(io.BytesIO(value))
    elif isinstance(value, str | Path):
        value = _open(value)
    elif isinstance(value, np.ndarray):
        value = _from_array(value)
    if not isinstance(value, Image.Image):
        raise TypeError(f"an image is a PIL image, a path, bytes or a uint8 array, not {type(value).__name__}")
    if value.width * value.height > MOST_PIXELS:  # before anything is decoded
        raise Unusable("too_large", f"{value.width} x {value.height} pixels are more than {MOST_PIXELS:,}")
    value.load()  # here, where an image that cannot be decoded is known by its row
    if value.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        value = ImageOps.exif_transpose(value)
    return _rgb(value)


def fit_image(image: Image.Image, spec: InputSpec, rng: np.random.Generator | None = None) -> Image.Image:
    """Resize so that the image covers ``spec.image_size``, then crop it out; to the pixel as torchvision does.

    The crop is random where an ``rng`` is given, which is the paper's only augmentation (CLIP, arXiv 2103.00020,
    section 2.4), else central.
    """
    height, width = spec.image_size
    filter_ = getattr(Image.Resampling, spec.interpolation.upper())
    size, left, top = place(image.width, image.height, spec, rng)
    if size[0] * size[1] > STRETCH * width * height:  # a thin line: what would be cropped away is never made
        x, y = image.width / size[0], image.height / size[1]
        return image.resize((width, height), filter_, box=(left * x, top * y, (left + width) * x, (top + height) * y))
    if size != image.size:
        image = image.resize(size, filter_)
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def place(
    width: int, height: int, spec: InputSpec, rng: np.random.Generator | None
) -> tuple[tuple[int, int], int, int]:
    """Where ``fit_image`` crops: the (width, height) it resizes an image to, and the left and top edge therein."""
    high, wide = spec.image_size
    if high * width >= wide * height:
        size = max(wide, high * width // height), high
    else:
        size = wide, max(high, wide * height // width)
    free_x, free_y = size[0] - wide, size[1] - high
    if rng is None:
        return size, round(free_x / 2), round(free_y / 2)
    return size, int(rng.random() * (free_x + 1)), int(rng.random() * (free_y + 1))


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def pixels(images: Tensor | Sequence[Any] | Any, spec: InputSpec) -> Tensor:
    """What a model is fed, from images of any kind.

    Args:
        images: One of the things ``open_image`` reads, a sequence of such, a (B, H, W, 3) uint8 array, or a tensor,
            which is passed on.
        spec: The model's inputs.

    Returns:
        (B, 3, H, W) uint8; a tensor as it was given.
    """
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else images.unsqueeze(0)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    return torch.stack([to_pixels(fit_image(open_image(image), spec)) for image in (images if several else [images])])


def _open(file: str | Path | io.BytesIO) -> Image.Image:
    if not isinstance(file, io.BytesIO):
        open_file(file).close()  # refuses what Pillow would wait for
    try:
        # Named, since Pillow would otherwise ask some of its other 40 plugins first, each by an exception.
        return Image.open(file, formats=USUAL_FORMATS)
    except UnidentifiedImageError:
        if isinstance(file, io.BytesIO):
            file.seek(0)
        return Image.open(file)


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not grey and not (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8):
        raise TypeError(f"an array of shape {array.shape} and type {array.dtype} is no image: give uint8 (H, W, 3)")
    return Image.fromarray(array)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # Pillow's own conversion clips at 255
    if image.mode == "F":
        raise Unusable("unknown_range", "pixels are floats of no known range; convert it to 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
