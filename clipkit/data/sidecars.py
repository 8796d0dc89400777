"""A folder of images with a text file beside each."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
from datasets import Dataset, Features, Image, List, Value

from clipkit.data.local import open_file

__all__ = ["SUFFIXES", "read_sidecars"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def read_sidecars(folder: Path) -> Dataset | None:
    """Images and the captions beside them: ``cat.jpg`` and ``cat.txt``, each line of it a caption.

    Args:
        folder: Looked through with all folders below it.

    Returns:
        ``image`` and ``text`` (a list of strings, empty where there is no file), in the order of their names; None
        where no image has a text beside it.
    """
    found = sorted(Path(base, name) for base, _, names in os.walk(folder) for name in names)
    texts = {path.with_suffix(""): path for path in found if path.suffix.lower() == ".txt"}
    images = [path for path in found if path.suffix.lower() in SUFFIXES]
    if not any(path.with_suffix("") in texts for path in images):
        return None
    captions = [_lines(texts.get(path.with_suffix(""))) for path in images]
    paths = [{"bytes": None, "path": str(path.absolute())} for path in images]
    features = Features(image=Image(), text=List(Value("string")))
    return Dataset.from_dict({"image": paths, "text": captions}, features, split=datasets.Split.TRAIN)


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    with open_file(file) as opened:
        text = opened.read().decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
