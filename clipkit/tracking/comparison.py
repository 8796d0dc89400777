"""How settings of an experiment compare as they see images: figures in, PNG out, pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipkit.tracking.canvas import BLUE, FAINT, GREEN, INK, ORANGE, Sheet, shorten, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "compared_curves"]

_COLOURS = (BLUE, ORANGE, GREEN, "#8e4bb0", "#c2384b", "#2a9d9d", "#8c6d46", FAINT)
_DASHES = ("solid", "dashed", "dotted", "dashdot")


class Line(NamedTuple):
    """One setting's metric, over several runs, against the images seen.

    Attributes:
        images: Where it was measured.
        mean: Mean over runs.
        low: Lower end of the mean's interval; NaN where there is none.
        high: Upper end.
        runs: How many runs.
    """

    images: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    runs: int


def compared_curves(lines: Mapping[str, Line], metric: str, title: str) -> bytes:
    """A line a setting, and the interval of its mean as a band.

    Args:
        lines: Setting to its line.
        metric: Name of what was measured.
        title: Heading.

    Returns:
        A PNG.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    sheet = Sheet(10.0, 5.2, title, f"{metric}: mean over runs, and the 95 % interval of the mean")
    axes = sheet.axes(0.8, 0.9, 6.4, 3.65)
    style(axes, "images seen", metric)
    for number, (setting, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        label = f"{shorten(setting, 30)} ({line.runs})"
        axes.plot(line.images, line.mean, color=colour, linestyle=dash, linewidth=1.8, marker="o", ms=3.5, label=label)
        axes.fill_between(line.images, line.low, line.high, color=colour, alpha=0.13, linewidth=0)
    axes.margins(x=0.02)
    _keep_near(axes, [value for line in lines.values() for value in line.mean])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
    if lines:
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9, labelcolor=INK,
            title="setting (runs)", title_fontsize=9, alignment="left",
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    return sheet.png()


def _keep_near(axes: Axes, means: Sequence[float]) -> None:
    """End the axis where the bands of a few runs, which may be very wide, would press the lines together."""
    finite = [value for value in means if math.isfinite(value)]
    if not finite:
        return
    room = 0.75 * (max(finite) - min(finite)) or 1.0
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(finite) - room), min(high, max(finite) + room))
