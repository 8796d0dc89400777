"""Sample transforms: ``(image, captions, rng) -> (image, captions)``, so that one may change both together.

The captions are those drawn for the image, one a view of the text. A transform draws from ``rng`` alone, which belongs
to the sample, and gives back images in RGB of any size: the model's size is made at the end. Images are PIL's; one with
an attribute ``takes_arrays`` that is true may also get a uint8 array (H, W, 3), and gives back such a one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from clipkit.data.arrays import Pixels, stretch
from clipkit.types import ArgumentError

__all__ = ["ColorJitter", "Flip", "Grayscale", "RandomAffine", "RandomResizedCrop", "SampleTransform", "Tint"]

Picture = TypeVar("Picture", Image.Image, Pixels)
Sample = tuple[Image.Image, list[str]]
SampleTransform = Callable[[Image.Image, list[str], np.random.Generator], Sample]


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the image, of random area and shape (Inception, arXiv 1409.4842, section 6).

    Args:
        scale: Least and most share of the area.
        ratio: Least and most width over height.
        size: Side to stretch the part to, the model's; None leaves it as it is, for the final crop to cut.
        interpolation: How it is stretched.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    size: int | None = None
    interpolation: str = "bicubic"
    takes_arrays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("scale", self.scale, 1.0)
        _check_range("ratio", self.ratio, float("inf"))

    def __call__(self, image: Picture, captions: list[str], rng: np.random.Generator) -> tuple[Picture, list[str]]:
        """Crop, and stretch where a size is given."""
        if isinstance(image, np.ndarray):
            left, top, width, height = self._part(image.shape[1], image.shape[0], rng)
            part = image[top : top + height, left : left + width]
            return part if self.size is None else stretch(part, self.size, self.size, self.interpolation), captions
        left, top, width, height = self._part(image.width, image.height, rng)
        box = (left, top, left + width, top + height)
        if self.size is None:
            return image.crop(box), captions
        return image.crop(box).resize((self.size,) * 2, getattr(Image.Resampling, self.interpolation.upper())), captions

    def _part(self, whole_width: int, whole_height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = map(math.log, self.ratio)
        for _ in range(10):  # `rng.uniform` gives the same and takes eight times as long
            area = whole_width * whole_height * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            ratio = math.exp(low + (high - low) * rng.random())
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= whole_width and 0 < height <= whole_height:
                free_x, free_y = whole_width - width, whole_height - height
                return int(rng.integers(free_x + 1)), int(rng.integers(free_y + 1)), width, height
        # The image is too long for any such part: the largest central one of a shape allowed.
        width = min(whole_width, max(1, round(whole_height * self.ratio[1])))
        height = min(whole_height, max(1, round(whole_width / self.ratio[0])))
        return (whole_width - width) // 2, (whole_height - height) // 2, width, height


@dataclass(frozen=True)
class RandomAffine:
    """Zoom, turn, stretch and shift, as drawings are placed differently in their frames; white comes in at the edges.

    Args:
        scale: Least and most side of the window that is kept, over the image's; above 1 zooms out.
        degrees: Most it is turned, either way.
        stretch: Most log of width over height, either way.
        shift: Most it is moved, either way, as a share of the image's side.
    """

    scale: tuple[float, float] = (0.7, 1.4)
    degrees: float = 12.0
    stretch: float = 0.15
    shift: float = 0.08

    def __post_init__(self) -> None:
        """Check the range."""
        _check_range("scale", self.scale, float("inf"))

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Move the drawing; the size stays."""
        zoom = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        aspect = math.exp(rng.uniform(-self.stretch, self.stretch) / 2)
        turn = math.radians(rng.uniform(-self.degrees, self.degrees))
        room = abs(1 - zoom) * 0.4 + self.shift  # a small window may lie anywhere, nearly up to the edges
        across, down = zoom * aspect, zoom / aspect
        # From output pixels to input pixels: x' = a x + b y + c, y' = d x + e y + f.
        a, b = across * math.cos(turn), -down * math.sin(turn)
        d, e = across * math.sin(turn), down * math.cos(turn)
        x, y = 0.5 + rng.uniform(-room, room, 2)  # where the output's centre comes from
        c = image.width * x - (a * image.width + b * image.height) / 2
        f = image.height * y - (d * image.width + e * image.height) / 2
        coefficients, bilinear, white = (a, b, c, d, e, f), Image.Resampling.BILINEAR, (255, 255, 255)
        moved = image.transform(image.size, Image.Transform.AFFINE, coefficients, bilinear, fillcolor=white)
        return moved, captions


@dataclass(frozen=True)
class Flip:
    """A mirror image, where left and right change places in the captions too.

    Args:
        p: How often.
        words: Pairs of words that change places, lower-case; whole words, or any part where the script has no capitals.
    """

    p: float = 0.5
    words: tuple[tuple[str, str], ...] = (("left", "right"),)
    takes_arrays: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the share."""
        _check_share(self.p)

    def __call__(self, image: Picture, captions: list[str], rng: np.random.Generator) -> tuple[Picture, list[str]]:
        """Flip image and captions together, or neither."""
        if rng.random() >= self.p:
            return image, captions
        captions = [self._pattern.sub(self._other, text) for text in captions]
        if isinstance(image, np.ndarray):
            return image[:, ::-1].copy(), captions  # PyTorch takes no view that runs backwards
        return ImageOps.mirror(image), captions

    @cached_property
    def _swap(self) -> dict[str, str]:
        return {a: b for pair in self.words for a, b in (tuple(pair), tuple(pair)[::-1])}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = sorted(self._swap, key=len, reverse=True)
        whole = [rf"\b{re.escape(word)}\b" if word.upper() != word else re.escape(word) for word in words]
        return re.compile("|".join(whole) or r"(?!)", re.IGNORECASE)

    def _other(self, found: re.Match[str]) -> str:
        word, other = found[0], self._swap[found[0].lower()]
        if len(word) > 1 and word.isupper():
            return other.upper()
        return other[:1].upper() + other[1:] if word[:1].isupper() else other


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation, each times a random factor from [1 - x, 1 + x].

    Args:
        brightness: x of brightness.
        contrast: x of contrast.
        saturation: x of saturation.
        p: How often.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    p: float = 0.8

    def __post_init__(self) -> None:
        """Check the share."""
        _check_share(self.p)

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Change the colours, or not."""
        if rng.random() < self.p:
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for enhance, x in zip(enhancers, (self.brightness, self.contrast, self.saturation), strict=True):
                if x:
                    image = enhance(image).enhance(float(rng.uniform(max(0.0, 1 - x), 1 + x)))
        return image, captions


@dataclass(frozen=True)
class Grayscale:
    """No colour.

    Args:
        p: How often.
    """

    p: float = 0.1

    def __post_init__(self) -> None:
        """Check the share."""
        _check_share(self.p)

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Grey, or as it was."""
        return (image.convert("L").convert("RGB") if rng.random() < self.p else image), captions


@dataclass(frozen=True)
class Tint:
    """Paler or darker, and a little redder, greener or bluer; white stays white, as the ground of drawings should.

    Args:
        strength: Most change of all channels together, as a share of their distance from white.
        channel: Most further change of each channel.
    """

    strength: float = 0.2
    channel: float = 0.1

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Change the colours: each channel's distance from white times a gain of its own."""
        gain = 1 + rng.uniform(-self.strength, self.strength) + rng.uniform(-self.channel, self.channel, 3)
        # A colour matrix takes a quarter of the time of a look-up in NumPy, and a tenth of Pillow's `point`.
        red, green, blue = ((*row, white) for row, white in zip(np.diag(gain).tolist(), 255 * (1 - gain), strict=True))
        return image.convert("RGB", (*red, *green, *blue)), captions


def _check_range(argument: str, given: tuple[float, float], most: float) -> None:
    if not 0 < given[0] <= given[1] <= most:
        raise ArgumentError(argument, f"{list(given)} is not [least, most] with both above 0 and at most {most}")


def _check_share(p: float) -> None:
    if not 0 <= p <= 1:
        raise ArgumentError("p", f"{p} is not in [0, 1]")
