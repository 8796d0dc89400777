"""The pure drawing functions: each returns a picture of a sensible size with something on it and nothing cut off."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.tracking.canvas import pixels, shorten
from clipkit.tracking.charts import curves, embedding_map, principal_plane
from clipkit.tracking.examine import distinct, evenly, most_made, nearest
from clipkit.tracking.pictures import Confusion, confusions, retrieval_gallery

NAMES = [
    "grinning face",
    "a very long name that does not fit under any picture at all",
    "$x_1$ & <b>",
    "κόσμος",
    "",
    "x",
]


def tile(seed, size=(16, 16)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def opened(png):
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    assert min(picture.shape[:2]) > 300 and max(picture.shape[:2]) < 2200
    assert picture.std() > 8
    edge = np.concatenate([picture[:3].ravel(), picture[-3:].ravel(), picture[:, :3].ravel(), picture[:, -3:].ravel()])
    assert (edge == 255).all(), "something runs over the edge"
    return picture


def count_near(picture, colour):
    return int((np.abs(picture - colour).max(-1) < 12).sum())


def test_gallery_frames_the_right_ones_in_green():
    images = [tile(i) for i in range(6)]
    top, green = [[0, 1, 2, 3, 4], [5, 4, 3, 2, 1]], (0x1A, 0x98, 0x50)
    one = opened(retrieval_gallery(NAMES[:2], images, top, [[True] + [False] * 4, [False] * 5], NAMES))
    three = opened(retrieval_gallery(NAMES[:2], images, top, [[True] * 3 + [False] * 2, [False] * 5], NAMES))
    none = opened(retrieval_gallery(NAMES[:2], images, top, [[False] * 5] * 2, NAMES))
    frame = count_near(one, green) - count_near(none, green)
    assert frame > 1000 and count_near(three, green) - count_near(none, green) == pytest.approx(3 * frame, rel=0.2)
    assert retrieval_gallery(["a"], images, [[0, 1]], [[True, False]])


def test_confusions_draws_longer_bars_for_more():
    blue = (0x3B, 0x6F, 0xB6)
    few = [Confusion(NAMES[0], NAMES[1], 1, 4, tile(0), tile(1)), Confusion(NAMES[2], NAMES[3], 1, 4, tile(2), None)]
    more = [few[0]._replace(times=4), few[1]]
    assert count_near(opened(confusions(few)), blue) > count_near(opened(confusions(more)), blue) > 1000
    assert opened(confusions([])).shape[0] < opened(confusions(few * 5)).shape[0]


@pytest.mark.parametrize("count", [1, 2, 60])
def test_embedding_map(count):
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, count, 8, generator=generator)
    names, images = [NAMES[i % 6] for i in range(count)], [tile(i, (10, 20)) for i in range(count)]
    opened(embedding_map(image, text, names, images))
    opened(embedding_map(image, text, names))


@pytest.mark.parametrize("steps", [0, 1, 10, 500])
def test_curves(steps):
    points = [(step, 1 / (1 + step)) for step in range(steps)]
    opened(curves({"train/loss": points, "val/loss": points[::10]}, points))
    opened(curves({}, [(0, float("nan")), (1, float("inf"))]))


def test_drawing_leaves_pyplot_alone():
    before = set(sys.modules)
    curves({}, [])
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_principal_plane_is_that_of_the_covariance():
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(1, 7)
    plane, share = principal_plane(points)
    values, vectors = np.linalg.eigh(np.cov(points.numpy().T))
    slow = (points.numpy() - points.numpy().mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(plane.numpy()), np.abs(slow), atol=1e-9)
    np.testing.assert_allclose(share, values[::-1][:2] / values.sum())
    assert (plane.gather(0, plane.abs().argmax(0, keepdim=True)) > 0).all()
    assert principal_plane(torch.ones(1, 3))[0].tolist() == [[0.0, 0.0]]


def test_pixels_shows_the_whole_picture_on_white():
    clear = Image.new("RGBA", (10, 30), (255, 0, 0, 0))
    assert (pixels(clear) == 255).all()
    wide = pixels(np.zeros((10, 40, 3), dtype=np.uint8))
    assert wide.shape == (43, 43, 3) and (wide == 0).all(-1).sum() == 400
    assert pixels(Image.new("L", (8, 8), 7))[4, 4].tolist() == [7, 7, 7]


def test_shorten():
    assert shorten("a b", 5) == "a b" and shorten("face with symbols on mouth", 20) == "face with symbols…"
    assert shorten("x" * 30, 10) == "x" * 9 + "…" and shorten(" a \n b ", 5) == "a b"


def test_nearest_is_stable_and_takes_negative_scores():
    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    top, scores = nearest(torch.tensor([[1.0, 0.0], [-1.0, -1.0]]), images, 4)
    assert top == [[0, 2, 4, 3], [1, 4, 0, 2]]
    assert scores == [[1.0, 1.0, 0.5, 0.0], [1.0, -0.5, -1.0, -1.0]]
    assert nearest(images[:1], images[:2], 5)[0] == [[0, 1]]


def test_most_made_counts_and_orders():
    true = torch.tensor([0, 0, 0, 1, 1, 2])
    best = [1, 1, 0, 2, 0, 2]
    scores = torch.zeros(6, 3)
    for row, (column, margin) in enumerate(zip(best, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], strict=True)):
        scores[row, column] = margin
    assert most_made(scores, true, 9) == [(0, 1, [0, 1]), (1, 0, [4]), (1, 2, [3])]
    assert most_made(scores, true, 1) == [(0, 1, [0, 1])]
    assert most_made(torch.eye(3), torch.arange(3), 5) == []


def test_choosing_evenly():
    assert evenly(10, 4) == [0, 3, 6, 9] and evenly(3, 9) == [0, 1, 2] and evenly(5, 1) == [0]
    assert distinct(["a", "a", "b", "c", "b"], 9) == [0, 2, 3] and distinct(["a", "a", "b", "c"], 2) == [0, 3]
