"""What `clipkit bench data` writes; its times are nobody's business here."""

from __future__ import annotations

import itertools
import json

import pytest
from PIL import Image

from clipkit.benchmarking.timing import interleaved, ratio, seconds_a_sample
from clipkit.cli import main

STAGES = ["read", "decode", "crop and resize", "augment", "tokenize", "collate"]
QUICK = ["--images", "64", "--rounds", "1", "--size", "64"]


def test_the_figures(tmp_path, capsys):
    told = tmp_path / "figures.json"
    assert main(["bench", "data", *QUICK, "--workers", "1", "--against", "open_clip", "--json", str(told)]) == 0
    figures = json.loads(told.read_text())
    assert (figures["images"], figures["size"], figures["rounds"], figures["spec"]) == (64, 64, 1, "photographs")
    assert list(figures["stages"]) == STAGES
    for stage in figures["stages"].values():
        assert stage["images_per_second"] == pytest.approx(1000 / stage["ms"])
    assert figures["bottleneck"]["stage"] in STAGES and 0 < figures["bottleneck"]["share"] < 1
    assert figures["loader"]["1"]["times_as_fast"]["median"] == 1
    assert 40 < figures["psnr"]["least"] <= figures["psnr"]["median"]
    rows = figures["against"]["rows"]
    pairs = [("files", "files"), ("files", "uint8"), ("jpeg", "jpeg")]
    assert [(row["what"], row["theirs"], row["ours"]) for row in rows] == [
        (what, *pair) for what in ("transform", "loader") for pair in pairs
    ]
    for row in rows:
        assert row["times_as_fast"]["median"] == pytest.approx(row["theirs_ms"] / row["ours_ms"])
    out = capsys.readouterr().out
    assert all(stage in out for stage in STAGES) and "bottleneck: " in out and "PSNR" in out and "packed uint8" in out


def test_a_set_of_ones_own_with_bad_rows(tmp_path, capsys):
    for number in range(70):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a red card")
    (tmp_path / "3.png").write_bytes(b"no image")
    assert (
        main(["bench", "data", str(tmp_path), "--images", "100", "--rounds", "1", "--size", "32", "--workers", "1"])
        == 0
    )
    assert "69 images to 32 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere/at/all"], "SPEC: "),
        (["emoji", "--caption", "nmae"], "--caption: "),
        (["emoji", "--rounds", "0"], "at least 1"),
        (["emoji", "--images", "10"], "only 10 rows can be used"),
        (["emoji", "--json", "no/such/folder/a.json"], "there is no folder no/such/folder"),
    ],
)
def test_mistakes_are_named(words, complaint, capsys):
    assert main(["bench", "data", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch):
    """One that goes on by a second whenever it is read."""
    monkeypatch.setattr("clipkit.benchmarking.timing.time.perf_counter", itertools.count().__next__)


def test_sides_are_run_in_turn(clock):
    order = []
    sides = {"a": lambda: order.append("a"), "b": lambda: order.append("b") or 0.5}
    taken = interleaved(sides, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert taken == {"a": [1] * 3, "b": [0.5] * 3}


def test_the_quotient_of_medians():
    assert ratio([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == (4.0, 2.0, 4.0)


def test_the_first_batch_starts_the_clock(clock):
    assert seconds_a_sample(iter([None] * 5), 10) == 1 / 40
