"""What a check found, as tables and as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from clipkit.data.check import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw", "to_tables"]

EXAMPLES = 3
INK, BAR, MARK = "#333333", "#4878b0", "#c44e52"


def to_tables(report: dict[str, Any]) -> Group:
    """Rich tables: what cannot be used first, then figures.

    Args:
        report: Of ``check``.
    """
    tables = [_bad_rows(report)] if report["skipped"] else []
    return Group(*tables, _figures(report))


def _bad_rows(report: dict[str, Any]) -> Table:
    share = sum(report["skipped"].values()) / max(1, report["read"])
    table = Table(
        "reason", "rows", "for example", title=f"{share:.2%} of the rows cannot be used", title_justify="left"
    )
    table.columns[1].justify = "right"
    for reason, count in report["skipped"].items():
        examples = [row for row in report["bad_rows"] if row["reason"] == reason][:EXAMPLES]
        lines = [f"{row['key']}{_place(row['source'])}: {row['message']}" for row in examples]
        table.add_row(reason, f"{count:,}", escape("\n".join(lines)), end_section=True)
    return table


def _place(source: str) -> str:
    return "" if source == "the rows" else f" ({Path(source).name})"


def _figures(report: dict[str, Any]) -> Table:
    table = Table(
        "", "", title=f"{escape(report['source'])}: {report['used']:,} of {report['read']:,} rows can be used"
    )
    table.title_justify, table.show_header = "left", False
    for name, value in _lines(report):
        table.add_row(name, escape(value))
    return table


def _lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    images, captions, speed = report["images"], report["captions"], report["throughput"]
    for name in ("width", "height", "aspect"):
        yield f"image {name}", _spread(images[name])
    yield f"captions ({', '.join(captions['columns'])})", f"{captions['captions']:,}"
    yield "captions a row", _spread(captions["per_row"])
    yield "tokens a caption", _spread(captions["tokens"])
    if captions["truncated"] is not None:
        yield f"longer than {captions['context_length']} tokens", f"{captions['truncated']:.2%}"
    most = [f"{entry['times']:,} x {entry['caption'][:60]}" for entry in captions["most_repeated"][:EXAMPLES]]
    yield "captions seen before", "\n".join([f"{captions['repeats']:,}", *most])
    for name, found in report["duplicates"].items():
        if found is not None:
            groups = [f"rows {', '.join(map(str, rows[:8]))}" for rows in found["groups"][:EXAMPLES]]
            yield name.replace("_", " ") + " of an earlier row", "\n".join([f"{found['rows']:,}", *groups])
    yield (
        "rows a second",
        f"{speed['rows_per_second']:,} in all, opening {speed['rows_per_second_and_process']:,} a process",
    )


def _spread(values: dict[str, float] | None) -> str:
    if values is None:
        return "-"
    low, *_, high = values.values()
    if low == high:
        return f"{low:,g}"
    return f"{values['median']:,g} (5 to 95 %: {values['5%']:,g} to {values['95%']:,g}; all: {low:,g} to {high:,g})"


def draw(findings: Findings, folder: Path) -> list[Path]:
    """Write pictures: image sizes, caption lengths, what is skipped, near-duplicates; none of what there is none of.

    Args:
        findings: Of ``check``.
        folder: Where to write; made where it is not there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    if len(findings.width):
        figures["sizes"] = _sizes(findings.width, findings.height)
    if len(findings.tokens):
        figures["captions"] = _tokens(findings.tokens, findings.report["captions"])
    if findings.report["skipped"]:
        figures["skipped"] = _skipped(findings.report["skipped"])
    if findings.pairs:
        figures["near_duplicates"] = _pairs(findings)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    return [folder / f"{name}.png" for name in figures]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _sizes(width: NDArray[np.int64], height: NDArray[np.int64]) -> Figure:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, (sizes, aspects) = _figure(9, 3.6, columns=2)
    sides = [f"{name} (median {np.median(side):g})" for name, side in (("width", width), ("height", height))]
    edges = np.geomspace(min(width.min(), height.min()) / 1.5, max(width.max(), height.max()) * 1.5, 41)
    sizes.hist([width, height], bins=edges, color=[BAR, MARK], label=sides)
    sizes.set(xscale="log", xlabel="pixels", ylabel="images")
    sizes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=ScalarFormatter())
    sizes.xaxis.set_minor_formatter(NullFormatter())
    sizes.legend(frameon=False, fontsize=8)
    ratio = np.log2(width / height)
    reach = max(1.0, float(np.abs(ratio).max()) * 1.02)
    aspects.hist(ratio, bins=np.linspace(-reach, reach, 42), color=BAR)
    ticks = np.arange(-np.floor(reach), np.floor(reach) + 1)
    aspects.set_xticks(ticks, [f"{2**tick:g}:1" if tick >= 0 else f"1:{2**-tick:g}" for tick in ticks])
    aspects.set(xlabel="width to height", ylabel="images")
    return figure


def _tokens(tokens: NDArray[np.int64], captions: dict[str, Any]) -> Figure:
    figure, (axis,) = _figure(6, 3.4)
    context, longest = captions["context_length"], int(tokens.max())
    step = max(1, -(-longest // 60))
    axis.hist(tokens, bins=np.arange(0, longest + 2 * step, step) - 0.5, color=BAR)
    axis.set(xlabel="tokens, start and end included", ylabel="captions")
    if longest > context / 2:
        axis.axvline(context + 0.5, color=MARK)
    axis.set_title(f"{captions['truncated']:.2%} are longer than {context} tokens", fontsize=9, color=INK, loc="left")
    return figure


def _skipped(reasons: dict[str, int]) -> Figure:
    figure, (axis,) = _figure(6, 0.8 + 0.3 * len(reasons))
    bars = axis.barh(list(reasons), list(reasons.values()), color=MARK)
    axis.bar_label(bars, [f"{count:,}" for count in reasons.values()], fontsize=8, padding=3)
    axis.invert_yaxis()
    axis.set(xlabel="rows that cannot be used")
    return figure


def _pairs(findings: Findings) -> Figure:
    columns = 6
    rows = -(-len(findings.pairs) // columns)
    figure, axes = _figure(1.7 * columns, 1.15 * rows, rows, columns)
    for axis in axes:
        axis.set_axis_off()
    for axis, (earlier, first, later, second) in zip(axes, findings.pairs, strict=False):
        both = np.concatenate([first, np.full((32, 2, 3), [255, 128, 128], dtype=np.uint8), second], axis=1)
        axis.imshow(np.asarray(Image.fromarray(both, "YCbCr").convert("RGB")))
        axis.set_title(f"rows {earlier} and {later}", fontsize=7, color=INK)
    return figure
