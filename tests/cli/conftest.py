from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture
def stand_ins(own_folder, monkeypatch):
    """``base.yaml``, an experiment of small classes that lie in a file beside it; both in the test's own folder."""
    folder = Path(__file__).parent / "stand_ins"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "stand_ins", raising=False)
    for path in folder.glob("*.*"):
        shutil.copy(path, own_folder)
    return Path("base.yaml")
