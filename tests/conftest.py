"""What every test stands on: no hub, two threads, a folder of its own, and the embedded rows read once a session."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datasets import Dataset

ROOT = Path(__file__).resolve().parents[1]

_cache = tempfile.TemporaryDirectory(prefix="clipkit-tests-")

# Before anything imports a library that reads them.
os.environ.update(
    HF_HOME=_cache.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in an empty folder, so that none writes into the checkout."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def emoji() -> Dataset:
    """The training rows of the embedded set; read, never changed."""
    from clipkit.data import load_rows

    return load_rows("emoji")


@pytest.fixture(scope="session")
def emoji_cells() -> Dataset:
    """The rows of unseen (concept, style) cells."""
    from clipkit.data import load_rows

    return load_rows("emoji/cells")
