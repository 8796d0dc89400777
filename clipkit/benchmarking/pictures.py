"""Files to measure on where no data set is given: crops of a photograph that is always there."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import matplotlib
import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clipkit.data import Recipe, open_image

__all__ = ["packed", "photograph_files"]

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


def packed(rows: Dataset, recipe: Recipe, folder: Path, form: str, size: int = 256) -> Path:
    """Write rows with their images resized: the shorter side ``size``, as JPEG or as uint8 pixels (a PPM).

    Args:
        rows: What is packed.
        recipe: Names the columns.
        folder: Where.
        form: ``jpeg`` or ``uint8``.
        size: The shorter side.

    Returns:
        The folder, which ``datasets.load_from_disk`` maps into memory.
    """
    kind, bare = {"jpeg": "JPEG", "uint8": "PPM"}[form], rows.cast_column(recipe.image, ImageFeature(decode=False))
    images = [{"bytes": _resized(value, size, kind), "path": None} for value in bare[recipe.image]]
    columns = {name: bare[name][:] for name in recipe.columns if name != recipe.image}
    features = Features({name: rows.features[name] for name in columns} | {recipe.image: ImageFeature()})
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    Dataset.from_dict({**columns, recipe.image: images}, features=features).save_to_disk(folder)
    if shown:
        datasets.enable_progress_bars()
    return folder


def _resized(value: object, size: int, kind: str) -> bytes:
    whole, file = open_image(value), io.BytesIO()
    scale = size / min(whole.size)
    sides = max(size, round(whole.width * scale)), max(size, round(whole.height * scale))
    whole.resize(sides, Image.Resampling.BICUBIC).save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()
