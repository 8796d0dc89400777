from __future__ import annotations

import pytest

from clipkit.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build-emoji"], "clipkit data: DIR is missing: where is the set to be written?"),
        (["build-emoji", "out", "--packages", "none"], "clipkit data: --packages: there is no folder none."),
        (["build-emoji", "out", "--packages", ".", "--check"], "there is no file out/emoji.parquet to check."),
    ],
)
def test_what_is_missing_is_told(words, message, capsys):
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_told(own_folder, capsys):
    assert main(["data", "build-emoji", "out", "--packages", "."]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("clipkit data: ")
    assert err.count("\n") == 1


def test_without_npm_packages_cannot_be_fetched(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["data", "build-emoji", "out"]) == 2
    assert "npm was not found" in capsys.readouterr().err


def test_a_build_prints_its_counts(monkeypatch, capsys, own_folder):
    monkeypatch.setattr("clipkit.data.build_emoji.build_emoji", lambda packages, out: {"images": 10912})
    assert main(["data", "build-emoji", "out", "--packages", "."]) == 0
    assert capsys.readouterr().out.split() == ["images", "10,912"]


@pytest.mark.parametrize(("differences", "code"), [([], 0), (["1f600 noto: a in the file, b rendered"], 1)])
def test_a_check_tells_what_differs(monkeypatch, capsys, differences, code):
    monkeypatch.setattr("clipkit.data.build_emoji.check_emoji", lambda packages, parquet: differences)
    assert main(["data", "build-emoji", "--check", "--packages", "."]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == differences
    assert lines[-1].endswith("1 rows differ" if code else "every pixel agrees")
