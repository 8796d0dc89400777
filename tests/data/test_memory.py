"""Memory of the loader: over a long epoch, and where pictures and texts are larger than memory should hold."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from clipkit.data import CaptionedImages, Collate, EpochBatches, RandomResizedCrop, Recipe, SampleMaker, choose_captions
from clipkit.data.loader import Loader
from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec

from .malformed import chunk, members, picture, png_of, tar

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


def bombs():
    """Whole pictures of 121 million pixels, of few bytes each."""
    packer = zlib.compressobj(1)
    lines = [packer.compress(bytes(100 * (1 + 3 * 11_000))) for _ in range(110)] + [packer.flush()]
    file = io.BytesIO()
    Pillow.new("L", (11_000, 11_000)).save(file, "JPEG")
    return [png_of(11_000, 11_000, chunk(b"IDAT", b"".join(lines))), file.getvalue()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_what_is_too_large_is_never_in_memory(tmp_path):
    """Measured in a process of its own, for the high-water mark of this one is other tests'."""
    sets = {"sound": [picture(size=(9 + i, 8)) for i in range(20)]}
    sets["bad"] = [*bombs(), *sets["sound"]]
    for name, pictures in sets.items():
        (tmp_path / name).mkdir()
        images = [{"bytes": data, "path": None} for data in pictures]
        captions = [f"thing {i}" for i in range(len(images))]
        pq.write_table(pa.table({"image": images, "txt": captions}), tmp_path / name / "rows.parquet")
        parts = [part for i, data in enumerate(pictures) for part in members(f"{name}{i}", data)]
        texts = range(5 if name == "bad" else 0)
        large = [part for i in texts for part in members(f"text{i}", txt=b"a " * (15 << 20))]
        (tmp_path / name / "0.tar").write_bytes(tar([*parts, *large]))
    given = [f"{tmp_path}/{name}/rows.parquet,{tmp_path}/{name}/0.tar" for name in sets]
    command = [sys.executable, str(Path(__file__).with_name("high_water.py")), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rises, believed = json.loads(done.stdout.splitlines()[-1])
    assert max(rises) < 150_000, rises  # kB: texts of 30 MB are read past
    assert min(believed) > 200_000, believed  # a picture takes 363,000, or less where an older Pillow gives up
