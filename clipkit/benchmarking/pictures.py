"""Files to measure on where no data set is given: crops of a photograph that is always there."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

__all__ = ["photograph_files"]

SUBJECTS = ("a woman in uniform", "an officer before a flag", "a portrait of a pioneer", "a navy officer who smiles")


def photograph_files(folder: Path, count: int, quality: int = 90) -> Path:
    """Write captioned JPEG files of 500 x 375 and 375 x 500 pixels, cut from the photograph that matplotlib carries.

    Args:
        folder: Where; made where it is not there.
        count: How many.
        quality: Of the JPEG.

    Returns:
        The folder, which ``load_rows`` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = (500, 375) if number % 3 else (375, 500)
        left, top = rng.integers(whole.width - width + 1), rng.integers(whole.height - height + 1)
        part = whole.crop((int(left), int(top), int(left) + width, int(top) + height))
        part.save(folder / f"{number:05}.jpg", quality=quality)
        (folder / f"{number:05}.txt").write_text(f"{SUBJECTS[number % len(SUBJECTS)]}, number {number}")
    return folder
