"""Every code block of the README and of the pages does what it says.

A page is run from top to bottom in one empty folder and one namespace:

- a block whose first line is ``# FILE`` is written to that file;
- other ``python`` blocks are executed;
- ``yaml`` blocks with a ``model`` section must be an experiment that ``clipkit fit`` accepts, those with ``data`` or
  ``trainer`` alone one that it accepts on top of ``emoji``;
- of ``bash`` blocks fenced as ``bash run`` the ``clipkit`` lines are run, in the process; of others the ``clipkit fit``
  lines must be ones that it accepts.
"""

from __future__ import annotations

import linecache
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^```(?P<language>\w+)(?P<mark>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"\A# (?P<name>[\w./-]+\.\w+)$", re.MULTILINE)


class Block(NamedTuple):
    language: str
    mark: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, each with the line its text begins on."""
    for match in FENCE.finditer(page):
        line = page.count("\n", 0, match.start("text")) + 1
        yield Block(match["language"], match["mark"].strip(), match["text"], line)


def commands(text: str) -> list[list[str]]:
    """The arguments of each ``clipkit`` command."""
    parts = re.split(r"\n|&&", text.replace("\\\n", " "))
    return [shlex.split(part, comments=True)[1:] for part in parts if part.strip().startswith("clipkit ")]


def clipkit(arguments: list[str], where: str) -> None:
    from clipkit.cli.main import main

    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code in (None, 0), f"{where}: clipkit {shlex.join(arguments)} ended with {code}"


def run(block: Block, where: str, namespace: dict[str, object]) -> None:
    named = NAMED.match(block.text)
    if named:
        Path(named["name"]).parent.mkdir(parents=True, exist_ok=True)
        Path(named["name"]).write_text(block.text, encoding="utf-8")
    if block.language == "python" and not named:
        text = "\n" * (block.line - 1) + block.text
        linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)  # for the line in a traceback
        exec(compile(text, where, "exec"), namespace)
    elif block.language == "yaml" and (sections := yaml.safe_load(block.text).keys() & {"model", "data", "trainer"}):
        Path("block.yaml").write_text(block.text, encoding="utf-8")
        below = [] if "model" in sections else ["-c", "emoji"]
        clipkit(["fit", *below, "-c", named["name"] if named else "block.yaml", "--print_config"], where)
    elif block.language == "bash":
        for arguments in commands(block.text):
            if block.mark == "run":
                clipkit(arguments, where)
            elif arguments[0] == "fit":
                shown = [str(ROOT / word) if word.startswith("experiments/") else word for word in arguments]
                clipkit([*shown, "--print_config"], where)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_is_true(page):
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page.read_text(encoding="utf-8")):
        run(block, f"{page.relative_to(ROOT)}:{block.line}", namespace)


def test_ones_own_tower_objective_and_data_set_are_one_short_file():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (own,) = (block for block in blocks(page) if block.text.startswith("# mine.py\n"))
    assert len(own.text.splitlines()) < 40


def test_blocks_are_found_with_their_lines():
    page = "a\n```python\nx = 1\n```\n\n```bash run\nclipkit a \\\n  --b=1  # why\nls\n```\n"
    first, second = blocks(page)
    assert first == Block("python", "", "x = 1\n", 3)
    assert (second.mark, second.line) == ("run", 7)
    assert commands(second.text) == [["a", "--b=1"]]
    assert commands("pip install . && clipkit fit -c emoji\n") == [["fit", "-c", "emoji"]]


def test_a_false_block_fails():
    with pytest.raises(AssertionError):
        run(Block("python", "", "assert 1 == 2\n", 1), "page:1", {})
