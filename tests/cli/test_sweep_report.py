"""Means and intervals over seeds against SciPy and by hand; the table, the files."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from clipkit.cli.sweep_plan import Run, Sweep
from clipkit.cli.sweep_report import interval, lines, to_table, write_report


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(0.4, 0.01, count).tolist()
    mean, low, high = interval(values)
    assert mean == pytest.approx(np.mean(values), rel=1e-12)
    expected = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=1e-9)


def test_the_interval_by_hand():
    """Of 1, 2, 3: s = 1, and Student's t for 2 degrees of freedom is 4.303 in every table."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=3e-4)


def test_it_holds_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(0.0, 1.0, (2000, 3)).tolist()
    held = [low <= 0.0 <= high for _, low, high in map(interval, drawn)]
    assert 0.935 < np.mean(held) < 0.965


def test_one_value_has_no_interval():
    mean, low, high = interval([0.3])
    assert mean == 0.3
    assert math.isnan(low) and math.isnan(high)


def run(setting, seed):
    return Run(setting, seed, f"{setting}-{seed}", (), {})


@pytest.fixture
def sweep():
    runs = tuple(run(setting, seed) for seed in (0, 1, 2) for setting in ("a, b", "c", "d"))
    return Sweep(Path("three.yaml"), Path("base.yaml"), "val/R@1", runs, {}, ())


@pytest.fixture
def curves(sweep):
    """Setting ``a, b`` whole, the last seed of ``c`` without the second point, ``d`` with one run alone gone wrong."""
    found = {}
    for one in sweep.runs:
        if one.setting == "a, b":
            found[one] = {10: 0.1 + one.seed, 20: 0.2 + one.seed}
        if one.setting == "c":
            found[one] = {10: 0.5, 20: 0.6, 30: 0.7} if one.seed < 2 else {10: 0.5, 30: 0.7}
    return found


def test_a_line_has_the_points_that_all_its_runs_have(sweep, curves):
    found = lines(sweep, curves)
    assert list(found) == ["a, b", "c"]
    assert found["a, b"].images == [10, 20]
    assert found["a, b"].mean == pytest.approx([1.1, 1.2])
    assert found["a, b"].low[1] == pytest.approx(interval([0.2, 1.2, 2.2])[1])
    assert found["c"].images == [10, 30]
    assert [line.runs for line in found.values()] == [3, 3]


def test_the_table_tells_what_is_missing_too(sweep, curves):
    out = io.StringIO()
    Console(file=out, width=100).print(to_table(sweep, lines(sweep, curves)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["a, b", "20", "3 of 3", "1.2000", "-1.2841 to 3.6841"],
        ["c", "30", "3 of 3", "0.7000", "0.7000 to 0.7000"],
        ["d", "", "0 of 3", "", ""],
    ]


def test_the_files_hold_every_figure(sweep, curves):
    picture, summary, points = write_report(sweep, curves, Path())
    assert picture.read_bytes().startswith(b"\x89PNG")
    with summary.open(newline="") as file:
        first, _ = csv.DictReader(file)
    assert first["setting"] == "a, b"
    assert (int(first["images"]), int(first["runs"]), float(first["mean"])) == (20, 3, pytest.approx(1.2))
    assert (float(first["low"]), float(first["high"])) == pytest.approx(interval([0.2, 1.2, 2.2])[1:])
    with points.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["setting", "seed", "images", "val/R@1"]
    assert len(rows) == 1 + 3 * 2 + 2 * 3 + 2
    assert ["a, b", "1", "20", "1.2"] in rows
