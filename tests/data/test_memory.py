"""Memory of the loader's workers over a long epoch."""

from __future__ import annotations

import io

import numpy as np
import psutil
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from clipkit.data import CaptionedImages, Collate, EpochBatches, RandomResizedCrop, Recipe, SampleMaker, choose_captions
from clipkit.data.loader import Loader
from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec

SPEC = InputSpec((48, 48), (0.5,) * 3, (0.5,) * 3, "bicubic", read_tokenizer("emoji"), 16, "longest")


def rows_of(kind: str) -> Dataset:
    images = []
    for number in range(500):
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(file, kind)
        images.append({"bytes": file.getvalue(), "path": None})
    captions = [f"thing {number % 500}" for number in range(60_000)]
    features = Features(image=Image(), text=Value("string"))
    return Dataset.from_dict({"image": images * 120, "text": captions}, features=features)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["JPEG", "PPM", "PNG"])
def test_it_does_not_grow_over_50_thousand_samples(kind, tmp_path):
    rows_of(kind).save_to_disk(tmp_path / "set")
    rows = Dataset.load_from_disk(tmp_path / "set")
    maker = SampleMaker(Recipe("image", choose_captions(rows), transforms=(RandomResizedCrop(size=48),)), SPEC)
    order = EpochBatches(len(rows), 250)
    loader = Loader(CaptionedImages(rows, maker), 1, persistent=True, batch_sampler=order, collate_fn=Collate(SPEC))
    held, others = [], set(psutil.Process().children())
    for number, _ in enumerate(loader):
        if number % 40 == 39:  # every 10 thousand samples
            (worker,) = set(psutil.Process().children()) - others
            memory = worker.memory_info()
            # Anonymous pages, still shared with the parent or not; those of the mapped file are not its own.
            held.append((memory.rss - memory.shared) / 2**20)
    assert len(held) == 6
    assert held[-1] - held[0] < 20, held
