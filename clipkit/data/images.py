"""Images of any kind to uint8 pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipkit.types import InputSpec

__all__ = ["fit_image", "open_image", "pixels", "to_pixels"]


def open_image(value: Any) -> Image.Image:
    """An upright RGB image, transparency laid on white.

    Args:
        value: A PIL image, a path, encoded bytes, an (H, W, 3) uint8 array, or the ``{"bytes", "path"}`` of a data set.

    Raises:
        TypeError: For anything else.
        OSError: Where it cannot be read or decoded.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, bytes):
        value = Image.open(io.BytesIO(value))
    elif isinstance(value, str | Path):
        value = Image.open(value)
    elif isinstance(value, np.ndarray):
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise TypeError(f"an image is a PIL image, a path, bytes or an array, not {type(value).__name__}")
    return _rgb(ImageOps.exif_transpose(value))


def fit_image(image: Image.Image, spec: InputSpec, rng: np.random.Generator | None = None) -> Image.Image:
    """Resize so that the image covers ``spec.image_size``, then crop it out.

    The crop is random where an ``rng`` is given, which is the paper's only augmentation (CLIP, section 2.4), else central.
    """
    height, width = spec.image_size
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, getattr(Image.Resampling, spec.interpolation.upper()))
    free_x, free_y = image.width - width, image.height - height
    if free_x == 0 and free_y == 0:
        return image
    left, top = (free_x // 2, free_y // 2) if rng is None else (rng.integers(free_x + 1), rng.integers(free_y + 1))
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def pixels(images: Tensor | Sequence[Any] | Any, spec: InputSpec) -> Tensor:
    """What a model is fed, from images of any kind.

    Args:
        images: One of the things ``open_image`` reads, a sequence of such, or a tensor, which is passed on.
        spec: The model's inputs.

    Returns:
        (B, 3, H, W) uint8; a tensor as it was given.
    """
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else images.unsqueeze(0)
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images, several = list(images), True
    return torch.stack([to_pixels(fit_image(open_image(image), spec)) for image in (images if several else [images])])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
