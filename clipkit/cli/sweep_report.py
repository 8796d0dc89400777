"""What a sweep found: means and their intervals over seeds, as a table, as CSV and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table

from clipkit.cli.sweep_plan import Run, Sweep
from clipkit.tracking import Line, compared_curves
from clipkit.tracking.history import Curve

__all__ = ["interval", "lines", "to_table", "write_report"]

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of some seeds' values, and the interval that holds the expected value with 95 % confidence.

    mean -/+ t(0.975, n - 1) * s / sqrt(n), with Student's t, as is right for few values that are normally distributed
    (Student, The probable error of a mean, 1908).

    Returns:
        Mean, lower and upper end; the ends are NaN for a single value, which says nothing of its own spread.
    """
    from scipy.special import stdtrit

    mean, count = fmean(values), len(values)
    if count < 2:
        return mean, math.nan, math.nan
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(count)
    return mean, mean - half, mean + half


def lines(sweep: Sweep, curves: Mapping[Run, Curve]) -> dict[str, Line]:
    """Each setting's mean and interval over seeds, against the images seen.

    Args:
        sweep: The sweep.
        curves: The metric of each finished run.

    Returns:
        Setting to its line, over the points that all its finished runs have; settings without any are left out.
    """
    found = {}
    for setting in sweep.settings:
        own = [curve for run, curve in curves.items() if run.setting == setting]
        shared = sorted(set.intersection(*(set(curve) for curve in own))) if own else []
        if shared:
            at = [interval([curve[images] for curve in own]) for images in shared]
            mean, low, high = (list(column) for column in zip(*at, strict=True))
            found[setting] = Line(shared, mean, low, high, len(own))
    return found


def to_table(sweep: Sweep, found: Mapping[str, Line]) -> Table:
    """The last point of each line: runs, mean, interval."""
    table = Table("setting", title=sweep.metric)
    for column in ("images seen", "runs", "mean", "95 % interval"):
        table.add_column(column, justify="right")
    seeds = len({run.seed for run in sweep.runs})
    for setting in sweep.settings:
        line = found.get(setting)
        if line is None:
            table.add_row(setting, "", f"0 of {seeds}", "", "")
            continue
        low, high = line.low[-1], line.high[-1]
        spread = "" if math.isnan(low) else f"{low:.4f} to {high:.4f}"
        table.add_row(setting, f"{line.images[-1]:,}", f"{line.runs} of {seeds}", f"{line.mean[-1]:.4f}", spread)
    return table


def write_report(sweep: Sweep, curves: Mapping[Run, Curve], folder: Path) -> list[Path]:
    """Write ``summary.csv`` (a row a setting), ``points.csv`` (a row a run and point) and ``comparison.png``.

    Returns:
        The files.
    """
    found = lines(sweep, curves)
    summary = [
        (setting, line.images[-1], line.runs, line.mean[-1], *_known(line.low[-1], line.high[-1]))
        for setting, line in found.items()
    ]
    points = [(run.setting, run.seed, images, y) for run, curve in curves.items() for images, y in curve.items()]
    files = [folder / name for name in ("comparison.png", "summary.csv", "points.csv")]
    files[0].write_bytes(compared_curves(found, sweep.metric, sweep.path.stem))
    _write(files[1], ("setting", "images", "runs", "mean", "low", "high"), summary)
    _write(files[2], ("setting", "seed", "images", sweep.metric), points)
    return files


def _known(*values: float) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
