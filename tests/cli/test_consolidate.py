"""The command around ``clipkit.checkpoints.consolidate``, which is tested with real shards elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.cli.main import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "one.ckpt"], "DIR: there is no folder nowhere."),
        (["empty", "one.ckpt"], "DIR: 'empty' is no folder of a sharded checkpoint"),
        (["empty", "there.ckpt"], "FILE: there.ckpt is there already."),
        (["empty"], "the following arguments are required: FILE"),
    ],
)
def test_what_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("there.ckpt").touch()
    assert main(["consolidate", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("one.ckpt").exists()
