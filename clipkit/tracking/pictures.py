"""What a model finds and what it mistakes, with the pictures themselves: arrays in, PNG out, pure functions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clipkit.tracking.canvas import BLUE, FAINT, GREEN, GREY, INK, Picture, Sheet, shorten, style

__all__ = ["Confusion", "confusions", "retrieval_gallery"]

_TOP = 0.85  # inches that the heading takes


class Confusion(NamedTuple):
    """Images of one class that were taken for another.

    Attributes:
        true: Name of their class.
        taken_for: Name of the class that scored highest.
        times: How many.
        total: How many images the true class has.
        example: One of the images.
        other: An image of the class that it was taken for, or None where there is none.
    """

    true: str
    taken_for: str
    times: int
    total: int
    example: Picture
    other: Picture | None


def retrieval_gallery(
    queries: Sequence[str],
    images: Mapping[int, Picture] | Sequence[Picture],
    top: Sequence[Sequence[int]],
    right: Sequence[Sequence[bool]],
    captions: Mapping[int, str] | Sequence[str] | None = None,
    title: str = "Text to image",
) -> bytes:
    """One row a query: its text, then the pictures found, best first, the right ones in a green frame.

    Args:
        queries: Q texts.
        images: Pictures by their id.
        top: Q lists of K ids, best first.
        right: Q lists of K, whether the picture belongs to the query.
        captions: What to write under a picture, by its id.
        title: Heading.

    Returns:
        A PNG.
    """
    columns, step, side = max(len(ids) for ids in top), 1.42, 1.1
    firsts, hits = sum(row[0] for row in right), sum(any(row) for row in right)
    below = (
        f"right (green frame) in first place for {firsts} of {len(queries)} texts, among the first {columns} for {hits}"
    )
    sheet = Sheet(max(2.45 + 1.25 * columns, 7.2), _TOP + step * len(queries) + 0.1, title, below)
    for row, query in enumerate(queries):
        y = _TOP + step * row
        sheet.text(0.15, y + side / 2, textwrap.fill(shorten(query, 88), 22), size=10.5)
        for column, (index, good) in enumerate(zip(top[row], right[row], strict=True)):
            axes = sheet.tile(
                2.4 + 1.25 * column, y, side, images[index], GREEN if good else GREY, 3.5 if good else 1.0
            )
            if captions is not None:
                colour = GREEN if good else FAINT
                axes.set_xlabel(shorten(captions[index], 19), fontsize=7, color=colour, labelpad=4, parse_math=False)
    return sheet.png()


def confusions(found: Sequence[Confusion], title: str = "Zero-shot confusions most made", below: str = "") -> bytes:
    """One bar a confusion, with an example of what was shown and of what it was taken for.

    Args:
        found: In the order to draw, the most frequent first.
        title: Heading.
        below: A line under it.

    Returns:
        A PNG.
    """
    step, side = 0.72, 0.6
    top = _TOP + 0.3
    sheet = Sheet(9.6, top + step * max(len(found), 3) + 0.55, title, below)
    if not found:
        sheet.text(4.8, top + 1.0, "none: every picture was recognised", size=11, align="center")
        return sheet.png()
    for x, name in ((0.15, "shown"), (2.75, "taken for"), (5.3, "how often")):
        sheet.text(x, top - 0.15, name, size=9, weight="bold")
    for row, confusion in enumerate(found):
        y = top + step * row + (step - side) / 2
        sheet.tile(0.15, y, side, confusion.example)
        sheet.tile(2.75, y, side, confusion.other)
        sheet.text(2.52, y + side / 2, "→", size=13, colour=FAINT, align="center")
        sheet.text(0.85, y + side / 2, textwrap.fill(shorten(confusion.true, 40), 20), size=8.5)
        sheet.text(3.45, y + side / 2, textwrap.fill(shorten(confusion.taken_for, 44), 22), size=8.5)
    _bars(sheet, (5.3, top, 4.1, step * len(found)), found)
    return sheet.png()


def _bars(sheet: Sheet, box: tuple[float, float, float, float], found: Sequence[Confusion]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes, times = sheet.axes(*box), [confusion.times for confusion in found]
    axes.barh(range(len(found)), times, height=0.5, color=BLUE)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(0, max(times) * 1.25)
    style(axes, "pictures")
    axes.grid(axis="y", visible=False)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for row, confusion in enumerate(found):
        axes.text(
            confusion.times, row, f" {confusion.times} of {confusion.total}", va="center", fontsize=8.5, color=INK
        )
