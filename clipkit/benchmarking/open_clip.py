"""open_clip's own transform and loader, to measure beside."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipkit.benchmarking.data import Subject, read_encoded

__all__ = ["OpenClip"]


class OpenClip:
    """What open_clip trains with: ``image_transform(is_train=True)``, its tokenizer, its CSV data set.

    Args:
        subject: The images; those that are no files are written out as such.
        folder: Where.

    Raises:
        ModuleNotFoundError: Where open_clip_torch[training] is not installed.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        import open_clip

        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        self.transforms = open_clip.image_transform(subject.spec.image_size[0], is_train=True)
        self.files, recipe = [], subject.recipe
        folder.mkdir()
        captions = []
        for number, row in enumerate(read_encoded(subject)):
            self.files.append(folder / f"{number:05}.image")
            self.files[-1].write_bytes(row[recipe.image]["bytes"])
            captions.append(recipe.choice.draw(recipe.choice.candidates(row), None))
        with (folder / "rows.csv").open("w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerow(["filepath", "title"])
            rows.writerows(zip(self.files, captions, strict=True))
        self.table = folder / "rows.csv"

    def transform(self) -> None:
        """Every image once, from its file to normalised floats."""
        for file in self.files:
            self.transforms(Image.open(file))

    def loader(self, batch_size: int) -> DataLoader[Any]:
        """Its loader with one worker, which lives on from epoch to epoch."""
        from open_clip_train.data import CsvDataset

        rows = CsvDataset(str(self.table), self.transforms, "filepath", "title", tokenizer=self.tokenizer)
        pin = torch.cuda.is_available()
        return DataLoader(
            rows, batch_size, True, num_workers=1, pin_memory=pin, drop_last=True, persistent_workers=True
        )
