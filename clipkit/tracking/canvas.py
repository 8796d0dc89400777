"""What a run's pictures share: the sheet, its colours and type, tiles and axes; matplotlib is imported when drawing."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "FAINT", "GREEN", "GREY", "INK", "ORANGE", "Picture", "Sheet", "pixels", "shorten", "style"]

Picture = Image.Image | np.ndarray[Any, Any]

GREEN, GREY, INK, FAINT = "#1a9850", "#c9ccd1", "#22262b", "#8a9099"
BLUE, ORANGE = "#3b6fb6", "#d9822b"
_DPI = 110


class Sheet:
    """A figure measured in inches from its upper left corner, on a canvas of its own: no global state of pyplot's.

    Args:
        width: Inches.
        height: Inches.
        title: Heading; with one, drawings begin 0.85 inches from the top.
        below: A line under the heading.
    """

    def __init__(self, width: float, height: float, title: str = "", below: str = "") -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        if title:
            self.text(0.15, 0.3, title, size=13, weight="bold")
            self.text(0.15, 0.57, below, size=9, colour=FAINT)

    def text(
        self, x: float, y: float, text: str, size: float, colour: str = INK, weight: str = "normal", align: str = "left"
    ) -> None:
        """Write a text whose middle line is ``y`` inches from the top."""
        self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, color=colour, fontweight=weight,
            ha=align, va="center", parse_math=False,
        )  # fmt: skip

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with their upper left corner at (x, y)."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def tile(
        self, x: float, y: float, side: float, picture: Picture | None, colour: str = GREY, line: float = 0.9
    ) -> Axes:
        """A framed square picture, or an empty frame."""
        axes = self.axes(x, y, side, side)
        axes.set_xticks([])
        axes.set_yticks([])
        if picture is not None:
            axes.imshow(pixels(picture), interpolation="lanczos")
        for edge in axes.spines.values():
            edge.set(color=colour, linewidth=line)
        return axes

    def png(self) -> bytes:
        """The finished picture."""
        out = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # scripts that the font does not have
            self.figure.savefig(out, format="png")
        return out.getvalue()


def pixels(picture: Picture) -> np.ndarray[Any, Any]:
    """(S, S, 3) uint8: the whole picture, centred on white with a narrow margin."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGBA")
    side = round(max(image.size) * 1.08)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.convert("RGB"))


def shorten(text: str, most: int) -> str:
    """On one line, at most so many characters, cut at a word where one ends late enough."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = text[: most - 1]
    word = head.rpartition(" ")[0]
    return f"{(word if len(word) > 0.6 * most else head).rstrip(' ,.:;')}…"


def style(axes: Axes, x: str, y: str = "") -> None:
    """Axis names, a quiet grid, no box."""
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=FAINT)
    axes.grid(color="#eceef1", linewidth=0.8)
    axes.set_axisbelow(True)
    for name, edge in axes.spines.items():
        edge.set(color=GREY, visible=name in ("left", "bottom"))
