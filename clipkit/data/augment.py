"""Sample transforms: ``(image, captions, rng) -> (image, captions)``, so that one may change both together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["ColorJitter", "Flip", "Grayscale", "RandomAffine", "RandomResizedCrop", "SampleTransform", "Tint"]

Sample = tuple[Image.Image, list[str]]
SampleTransform = Callable[[Image.Image, list[str], np.random.Generator], Sample]


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the image, of random area and shape (Inception, arXiv 1409.4842, section 6).

    Args:
        scale: Least and most share of the area.
        ratio: Least and most width over height.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Crop; resizing is left to the end, when the model's size is known."""
        area = image.width * image.height * rng.uniform(*self.scale)
        ratio = np.exp(rng.uniform(*np.log(self.ratio)))
        width = min(image.width, max(1, round(float(np.sqrt(area * ratio)))))
        height = min(image.height, max(1, round(float(np.sqrt(area / ratio)))))
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height)), captions


@dataclass(frozen=True)
class RandomAffine:
    """Zoom in or out, turn, stretch and shift, as drawings are placed differently in their frames; white comes in at the edges.

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

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Move the drawing; the size stays."""
        zoom = np.exp(rng.uniform(*np.log(self.scale)))
        aspect = np.exp(rng.uniform(-self.stretch, self.stretch) / 2)
        turn = np.radians(rng.uniform(-self.degrees, self.degrees))
        room = abs(1 - zoom) * 0.4 + self.shift  # a small window may lie anywhere, nearly up to the edges
        size = np.array([image.width, image.height], dtype=np.float64)
        centre = size * (0.5 + rng.uniform(-room, room, 2))
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = turned * zoom * np.array([aspect, 1 / aspect])  # output pixel, from the centre, to input pixel
        offset = centre - matrix @ (size / 2)
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        bilinear, white = Image.Resampling.BILINEAR, (255, 255, 255)
        moved = image.transform(image.size, Image.Transform.AFFINE, coefficients, bilinear, fillcolor=white)
        return moved, captions


@dataclass(frozen=True)
class Flip:
    """A mirror image, where left and right change places in the captions too.

    Args:
        p: How often.
        words: Pairs of words that change places, lower-case.
    """

    p: float = 0.5
    words: tuple[tuple[str, str], ...] = (("left", "right"),)

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Flip image and captions together, or neither."""
        if rng.random() >= self.p:
            return image, captions
        swap = {a: b for pair in self.words for a, b in (pair, pair[::-1])}
        return ImageOps.mirror(image), [" ".join(swap.get(word, word) for word in text.split(" ")) for text in captions]


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

    def __call__(self, image: Image.Image, captions: list[str], rng: np.random.Generator) -> Sample:
        """Change the colours, or not."""
        if rng.random() < self.p:
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for enhance, x in zip(enhancers, (self.brightness, self.contrast, self.saturation), strict=True):
                image = enhance(image).enhance(float(rng.uniform(max(0.0, 1 - x), 1 + x)))
        return image, captions


@dataclass(frozen=True)
class Grayscale:
    """No colour.

    Args:
        p: How often.
    """

    p: float = 0.1

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
        """Change the colours by one table look-up a channel."""
        gain = 1 + rng.uniform(-self.strength, self.strength) + rng.uniform(-self.channel, self.channel, 3)
        table = 255 - (255 - np.arange(256)) * gain[:, None]  # (3, 256)
        return image.point(table.clip(0, 255).astype(np.uint8).flatten().tolist()), captions
