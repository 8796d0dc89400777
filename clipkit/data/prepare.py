"""From a stored picture to the pixels of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipkit.data.arrays import Pixels, fit_array, read_array
from clipkit.data.augment import SampleTransform
from clipkit.data.images import fit_image, open_image
from clipkit.types import ArgumentError, InputSpec

__all__ = ["Prepare", "check_decode"]


def check_decode(decode: str) -> None:
    """Check the name of a way to decode.

    Raises:
        ArgumentError: For another than ``fast`` and ``reference``.
    """
    if decode not in ("fast", "reference"):
        raise ArgumentError("decode", f"{decode!r} is not one of `fast`, `reference`")


class Prepare:
    """Opens pictures and makes the model's pixels of them.

    ``fast`` keeps plain JPEGs and PPMs out of Pillow for as long as transforms take arrays; all else goes the
    ``reference`` way. Crops and draws are the same in both; pixels differ by rounding, and those of a JPEG that is to
    shrink a little more, see ``read_array``.

    Args:
        spec: What the model wants.
        transforms: Applied in order, where there is an ``rng``.
        decode: ``fast`` or ``reference``, which is Pillow throughout.

    Raises:
        ArgumentError: For another ``decode``.
    """

    def __init__(self, spec: InputSpec, transforms: Sequence[SampleTransform] = (), decode: str = "fast") -> None:
        check_decode(decode)
        self.spec, self.transforms = spec, tuple(transforms)
        self.arrays = decode == "fast" and (not self.transforms or _takes_arrays(self.transforms[0]))

    def open(self, value: Any) -> Image.Image | Pixels:
        """An upright picture, from what ``open_image`` reads, a buffer of encoded bytes among it.

        Raises:
            Exception: As ``open_image``.
        """
        array = read_array(value, max(self.spec.image_size)) if self.arrays else None
        return open_image(value) if array is None else array

    def __call__(
        self, image: Image.Image | Pixels, caption: str, rng: np.random.Generator | None
    ) -> tuple[Tensor, str]:
        """Augment where there is an ``rng``, and fit.

        Returns:
            (3, H, W) uint8, its memory laid out as (H, W, 3), and the caption.
        """
        for transform in self.transforms if rng is not None else ():
            if isinstance(image, np.ndarray) and not _takes_arrays(transform):
                image = Image.fromarray(image)
            image, (caption, *_) = transform(image, [caption], rng)  # type: ignore[arg-type]  # one that takes arrays
        if isinstance(image, np.ndarray):
            fitted = fit_array(image, self.spec, rng)
        else:
            fitted = np.asarray(fit_image(image, self.spec, rng))
        if not fitted.flags.writeable:  # PyTorch warns
            fitted = fitted.copy()
        return torch.from_numpy(fitted).permute(2, 0, 1), caption


def _takes_arrays(transform: SampleTransform) -> bool:
    return bool(getattr(transform, "takes_arrays", False))
