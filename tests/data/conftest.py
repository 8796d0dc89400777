"""A small set in the hub's layout, and data modules of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.data import CaptionDataModule
from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec

ROWS = 41


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_columns(numbers: Iterable[int]) -> dict[str, list[Any]]:
    numbers = list(numbers)
    return {
        "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers],
        "captions": [[f"left {i}", f"ein {i}", f"thing {i}"] for i in numbers],
        "languages": [["en", "de", "en"] for _ in numbers],
        "tags": [["x"] * (i % 3) for i in numbers],
        "kind": [i % 11 for i in numbers],
        "style": ["ab"[i % 2] for i in numbers],
        "size": [i / 4 for i in numbers],
    }


@pytest.fixture(scope="session")
def columns() -> Callable[[Iterable[int]], dict[str, list[Any]]]:
    """The columns of some rows, by number."""
    return make_columns


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 rows to train on, 9 to validate."""
    root: Path = tmp_path_factory.mktemp("set")
    (root / "data").mkdir()
    for split, numbers in {"train": range(ROWS), "validation": range(100, 109)}.items():
        pq.write_table(pa.table(make_columns(numbers)), root / f"data/{split}-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    """What a small model wants."""
    return InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", read_tokenizer("emoji"), 16, "longest")


@pytest.fixture(scope="session")
def make(spec: InputSpec) -> Callable[..., CaptionDataModule]:
    """A data module that knows what the model wants."""

    def made(source: str | Path | list[str] | dict[str, float], **options: Any) -> CaptionDataModule:
        train = str(source) if isinstance(source, Path) else source
        data = CaptionDataModule(train, **{"batch_size": 6, "workers": 0, **options})
        data.inputs = spec
        return data

    return made
