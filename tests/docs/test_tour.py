"""The diagram of the tour shows every part of the package on its floor, and no file that is not there."""

from __future__ import annotations

import re
import runpy

import pytest


@pytest.fixture
def floors(root) -> dict[str, int]:
    return runpy.run_path(str(root / "tests" / "test_architecture.py"))["FLOORS"]


@pytest.fixture
def diagram(root) -> dict[str, tuple[int, set[str]]]:
    """Top-level name to its floor and the files named beside it."""
    page = (root / "docs" / "tour.md").read_text(encoding="utf-8")
    text = re.search(r"^```text\nclipkit/\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    entries = re.findall(r"^  (\S+) +F(\d)(.*(?:\n {4,}.*)*)", text, re.MULTILINE)
    return {name: (int(floor), set(re.findall(r"\w+\.py", rest))) for name, floor, rest in entries}


def test_every_part_stands_on_its_floor(root, diagram, floors):
    package = root / "clipkit"
    files = {path.name: floors[path.stem] for path in package.glob("*.py")}
    folders = {f"{path.parent.name}/": floors[path.parent.name] for path in package.glob("*/__init__.py")}
    assert {name: floor for name, (floor, _) in diagram.items()} == files | folders


def test_every_file_it_names_is_there(root, diagram):
    # Not the other way round: a new tower is three files, and this page is none of them.
    missing = [
        f"{name}{file}"
        for name, (_, named) in diagram.items()
        for file in named
        if not (root / "clipkit" / name / file).is_file()
    ]
    assert missing == []
