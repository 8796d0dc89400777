"""A measurement beside another library's: what, both figures, and how they compare."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from clipkit.benchmarking.timing import Ratio, interleaved, ratio

__all__ = ["Row", "as_json", "from_seconds", "in_turn", "quotient", "rate"]


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        what: What is measured.
        base: Name of the side that is compared with.
        theirs: Its figure.
        ours: clipkit's figure.
        unit: Of both.
        share: Ours as a share of theirs, the least and the most of a round with it.
    """

    what: str
    base: str
    theirs: float
    ours: float
    unit: str
    share: Ratio


def in_turn(
    what: str, base: str, theirs: Callable[[], float | None], ours: Callable[[], float | None], rounds: int
) -> Row:
    """Time two sides in turn, in milliseconds; a side's wall time counts, or the seconds that it gives back."""
    return from_seconds(what, base, interleaved({"theirs": theirs, "ours": ours}, rounds))


def from_seconds(what: str, base: str, taken: Mapping[str, list[float]]) -> Row:
    """The row of two sides that were timed, ``theirs`` and ``ours``."""
    theirs, ours = (1000 * statistics.median(taken[side]) for side in ("theirs", "ours"))
    return Row(what, base, theirs, ours, "ms", ratio(taken["ours"], taken["theirs"]))


def rate(row: Row, images: int) -> Row:
    """Milliseconds of a step on so many images as images a second."""
    share = Ratio(1 / row.share.median, 1 / row.share.most, 1 / row.share.least)
    theirs, ours = (1000 * images / milliseconds for milliseconds in (row.theirs, row.ours))
    return Row(row.what, row.base, theirs, ours, "images/s", share)


def quotient(what: str, base: str, theirs: float, ours: float, unit: str) -> Row:
    """The row of two figures that are measured once, such as memory."""
    return Row(what, base, theirs, ours, unit, Ratio(ours / theirs, ours / theirs, ours / theirs))


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """For a file."""
    return [{**row._asdict(), "share": row.share._asdict()} for row in rows]
