"""Where the embeddings lie and how the loss went: arrays in, PNG out, pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipkit.tracking.canvas import BLUE, FAINT, GREEN, GREY, INK, ORANGE, Picture, Sheet, pixels, shorten, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves", "embedding_map", "principal_plane"]

_APART = (118, 84)  # pixels: the width of a name, the height of a picture with its name


def embedding_map(
    image: Tensor,
    text: Tensor,
    names: Sequence[str],
    pictures: Sequence[Picture] | None = None,
    title: str = "Embeddings of pictures and of their texts",
    shown: int = 14,
) -> bytes:
    """Image and text embeddings on the plane of their two largest principal components, pairs joined by a line.

    Args:
        image: (N, D).
        text: (N, D), row i belongs to image i.
        names: N names.
        pictures: N pictures; some are drawn at their place.
        title: Heading.
        shown: How many pairs at most get their picture and name; fewer where they would overlap.

    Returns:
        A PNG.
    """
    image, text = image.detach().double().cpu(), text.detach().double().cpu()
    plane, share = principal_plane(torch.cat([image, text]))  # (2N, 2)
    points, count = plane.numpy(), len(names)
    cosine = torch.cosine_similarity(image, text).mean().item()
    sheet = Sheet(9.0, 7.2, title, f"{count} pairs, joined; mean cosine of a pair {cosine:.2f}")
    axes = sheet.axes(0.8, 0.85, 7.95, 5.7)
    style(axes, f"first component ({share[0]:.0%} of the variance)", f"second component ({share[1]:.0%})")
    for pair in zip(points[:count], points[count:], strict=True):
        axes.plot(*np.transpose(pair), color=GREY, linewidth=0.6, alpha=0.6, zorder=1)
    axes.scatter(points[:count, 0], points[:count, 1], s=16, color=BLUE, label="picture", zorder=2)
    axes.scatter(points[count:, 0], points[count:, 1], s=16, color=ORANGE, marker="s", label="text", zorder=2)
    axes.margins(0.1)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.11), ncols=2, frameon=False, fontsize=9)
    for i in _spread(axes.transData.transform(points[:count]), shown):
        _label_pair(axes, points[i], points[count + i], names[i], None if pictures is None else pictures[i])
    return sheet.png()


def curves(loss: Mapping[str, Sequence[tuple[int, float]]], scale: Sequence[tuple[int, float]]) -> bytes:
    """Losses and the logit scale against the step.

    Args:
        loss: (step, value) pairs by name; a long row of values is drawn thin, with a running mean on top.
        scale: (step, value) pairs of the exponentiated logit scale.

    Returns:
        A PNG.
    """
    from matplotlib.ticker import MaxNLocator

    sheet = Sheet(10.0, 4.2)
    left, right = sheet.axes(0.7, 0.5, 4.15, 3.1), sheet.axes(5.65, 0.5, 4.15, 3.1)
    for axes, title in ((left, "Loss"), (right, "Logit scale")):
        style(axes, "step")
        axes.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold")
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    for (name, points), colour in zip(loss.items(), (BLUE, ORANGE, GREEN, FAINT), strict=False):
        _line(left, name, points, colour, window=len(points) // 25)
    if any(len(points) for points in loss.values()):
        left.legend(frameon=False, fontsize=9)
    _line(right, "logit scale", scale, BLUE, window=1)
    return sheet.png()


def principal_plane(points: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Coordinates on the plane of most variance.

    Args:
        points: (N, D).

    Returns:
        (N, 2), and each axis's share of the variance. The sign of an axis is such that its largest coordinate is
        positive.
    """
    centred = points - points.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T  # (N, 2), or narrower for a single point or dimension
    plane = torch.nn.functional.pad(plane, (0, 2 - plane.shape[1]))
    largest = plane.gather(0, plane.abs().argmax(0, keepdim=True))
    variance = sizes.square() / sizes.square().sum().clamp_min(1e-30)
    shares = [*variance[:2].tolist(), 0.0, 0.0]
    return plane * torch.where(largest < 0, -1.0, 1.0), (shares[0], shares[1])


def _spread(places: np.ndarray[Any, Any], most: int) -> list[int]:
    """Points to label, the outer ones first, each only where nothing that is labelled already is near.

    Args:
        places: (N, 2) in pixels.
        most: How many at most.
    """
    chosen: list[int] = []
    for i in np.argsort(-np.hypot(*(places - places.mean(0)).T), kind="stable"):
        near = (np.abs(places[chosen] - places[i]) < _APART).all(-1).any()
        if len(chosen) < most and not near:
            chosen.append(int(i))
    return chosen


def _label_pair(
    axes: Axes, image: np.ndarray[Any, Any], text: np.ndarray[Any, Any], name: str, picture: Picture | None
) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes.plot(*np.transpose([image, text]), color=ORANGE, linewidth=1.0, alpha=0.8, zorder=1.5)
    if picture is not None:
        small = Image.fromarray(pixels(picture)).resize((72, 72), Image.Resampling.LANCZOS)
        box = AnnotationBbox(OffsetImage(np.asarray(small), zoom=0.42), (image[0], image[1]), pad=0.1, zorder=4)
        box.patch.set(edgecolor=BLUE, linewidth=1.0)
        axes.add_artist(box)
    axes.annotate(
        shorten(name, 18), (image[0], image[1]), (0, -24 if picture is not None else 9), textcoords="offset points",
        ha="center", va="center", zorder=5, fontsize=7.5, color=INK, parse_math=False,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )  # fmt: skip


def _line(axes: Axes, name: str, points: Sequence[tuple[int, float]], colour: str, window: int) -> None:
    points = [(step, value) for step, value in points if np.isfinite(value)]
    if not points:
        return
    steps, values = np.transpose(np.array(points, dtype=float))
    if window > 1:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
        weights = np.ones(window)
        values = np.convolve(values, weights, "same") / np.convolve(np.ones_like(values), weights, "same")
    axes.plot(steps, values, color=colour, linewidth=1.8, marker="o" if len(values) < 3 else None, label=name)
