"""The picture of a sweep: a line a setting, its band, its name; whatever the figures are."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from clipkit.tracking import Line, compared_curves
from clipkit.tracking.canvas import BLUE, ORANGE


def opened(png):
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    edge = np.concatenate([picture[:3].ravel(), picture[-3:].ravel(), picture[:, :3].ravel(), picture[:, -3:].ravel()])
    assert (edge == 255).all(), "something runs over the edge"
    return picture


def near(picture, colour, within=12):
    """Rows and columns of the pixels of a colour, of the plot's own area."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(picture - wanted).max(-1) < within)
    inside = columns < 795  # the legend stands on the right
    return rows[inside], columns[inside]


def line(values, spread=0.0):
    return Line(
        [128 * (i + 1) for i in range(len(values))],
        values,
        [v - spread for v in values],
        [v + spread for v in values],
        3,
    )


def test_the_better_setting_is_drawn_above():
    picture = opened(
        compared_curves({"a": line([0.1, 0.2, 0.3]), "b": line([0.3, 0.4, 0.5])}, "emoji/cells/acc1", "objectives")
    )
    lower, higher = near(picture, BLUE), near(picture, ORANGE)
    assert len(lower[0]) > 300 and len(higher[0]) > 300
    assert higher[0].mean() < lower[0].mean() - 50
    first = lower[0][lower[1] < lower[1].min() + 50].mean()
    last = lower[0][lower[1] > lower[1].max() - 50].mean()
    assert last < first - 50, "it rises"


def test_a_band_is_drawn_and_a_very_wide_one_does_not_press_the_lines_together():
    thin, wide = (opened(compared_curves({"a": line([0.1, 0.2, 0.3], spread)}, "m", "t")) for spread in (0.02, 30.0))
    heights = []
    for picture in (thin, wide):
        rows, _ = near(picture, BLUE)
        heights.append(np.ptp(rows))
        tinted = (picture[..., 2] - picture[..., 0] > 15) & (picture[..., 0] > 200)
        assert tinted.sum() > 3000
    assert heights[1] > 0.35 * heights[0]


@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"one point": line([0.5])},
        {"one run": line([0.1, 0.2], math.nan)},
        {"none finite": line([math.nan, math.nan])},
        {"constant": line([0.0, 0.0])},
        {"$x_1$ " + "a very long name of a setting, and further " * 3: line([0.1, 0.2])},
        {f"setting {n}": line([0.1, 0.1 + n / 10], 0.05) for n in range(14)},
    ],
    ids=["nothing", "one", "no-band", "nan", "constant", "name", "many"],
)
def test_whatever_the_figures_are(lines):
    assert opened(compared_curves(lines, "emoji/cells/acc1", "a sweep")).std() > 2
