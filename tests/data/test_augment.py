"""Each transform: what it does to a picture worked out by hand, what it does to words, and that it is pure."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from clipkit.data import (
    ColorJitter,
    Flip,
    Grayscale,
    RandomAffine,
    RandomResizedCrop,
    SampleTransform,
    Tint,
    sample_rng,
)
from clipkit.types import ArgumentError

ALL = [
    RandomResizedCrop((0.2, 1.0)),
    RandomResizedCrop((0.2, 1.0), size=16),
    RandomAffine(),
    Flip(),
    ColorJitter(),
    Grayscale(0.5),
    Tint(),
]


def picture(width: int = 20, height: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coordinates(width: int, height: int) -> Image.Image:
    """Red is x, green is y."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[..., 0], array[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(array)


@pytest.mark.parametrize("transform", ALL, ids=lambda one: type(one).__name__)
def test_pure(transform):
    image, captions = picture(), ["a left hand", "b"]
    before = image.tobytes(), list(captions)
    outcomes = []
    for seed in range(12):
        made, words = transform(image, captions, sample_rng(0, seed))
        again, words_again = transform(image, captions, sample_rng(0, seed))
        assert made.mode == "RGB"
        assert (made.tobytes(), made.size, words) == (again.tobytes(), again.size, words_again)
        assert len(words) == 2
        outcomes.append((made.tobytes(), made.size))
    assert len(set(outcomes)) > 1
    assert (image.tobytes(), captions) == before
    copy = pickle.loads(pickle.dumps(transform))  # workers that are spawned get one
    assert copy(image, captions, sample_rng(0, 1))[0].tobytes() == outcomes[1][0]


def test_crop_is_a_part_of_the_area_and_shape_asked_for():
    crop, image = RandomResizedCrop((0.25, 0.5), (0.5, 2.0)), coordinates(100, 80)
    shares, shapes, corners = [], [], set()
    for seed in range(400):
        made = np.asarray(crop(image, [], sample_rng(1, seed))[0])
        height, width = made.shape[:2]
        shares.append(height * width / 8000)
        shapes.append(width / height)
        corners.add((made[0, 0, 0] // 25, made[0, 0, 1] // 20))
        assert (made[..., 0] == made[0, 0, 0] + np.arange(width)).all()  # the pixels themselves, not moved
    assert 0.24 < min(shares) < 0.27 < 0.47 < max(shares) < 0.51
    assert 0.48 < min(shapes) < 0.55 < 1.8 < max(shapes) < 2.1
    assert len(corners) >= 8


def test_crop_is_stretched_once_to_the_size():
    image = picture(60, 40)
    part = RandomResizedCrop((0.3, 0.6))(image, [], sample_rng(0, 3))[0]
    stretched = RandomResizedCrop((0.3, 0.6), size=24)(image, [], sample_rng(0, 3))[0]
    assert part.size != (24, 24)
    assert stretched.tobytes() == part.resize((24, 24), Image.Resampling.BICUBIC).tobytes()


def test_crop_of_what_is_too_long_is_the_largest_in_the_middle():
    made = np.asarray(RandomResizedCrop((0.9, 1.0), (0.8, 1.25))(coordinates(200, 8), [], sample_rng(0))[0])
    assert made.shape[:2] == (8, 10)
    assert made[0, 0, 0] == 95
    tall = RandomResizedCrop((0.9, 1.0), (0.8, 1.25))(coordinates(8, 200), [], sample_rng(0))[0]
    assert tall.size == (8, 10)
    assert RandomResizedCrop()(picture(1, 1), [], sample_rng(0))[0].size == (1, 1)


def test_affine_that_does_nothing():
    image = picture()
    made, captions = RandomAffine((1.0, 1.0), 0, 0, 0)(image, ["a"], sample_rng(0))
    assert made.tobytes() == image.tobytes()
    assert captions == ["a"]


def test_affine_zooms_out_onto_white():
    made = np.asarray(RandomAffine((2.0, 2.0), 0, 0, 0)(Image.new("RGB", (40, 40)), [], sample_rng(0))[0])
    assert 0.2 < (made == 0).mean() < 0.3  # half the side, a quarter of the area
    assert (made[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).sum() >= 6


def test_flip():
    image = coordinates(9, 3)
    made, captions = Flip(1.0)(image, ["left hand", "none"], sample_rng(0))
    assert np.asarray(made)[0, :, 0].tolist() == list(range(8, -1, -1))
    assert captions == ["right hand", "none"]
    made, captions = Flip(0.0)(image, ["left hand"], sample_rng(0))
    assert made.tobytes() == image.tobytes()
    assert captions == ["left hand"]
    flipped = [Flip(0.3)(image, ["left"], sample_rng(2, seed))[1] == ["right"] for seed in range(1000)]
    assert 250 < sum(flipped) < 350


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left arrow", "right arrow"),
        ("Left, then RIGHT.", "Right, then LEFT."),
        ("left-right arrow", "right-left arrow"),
        ("the leftmost, upright and copyright", "the leftmost, upright and copyright"),
        ("(left)\tright\nleft", "(right)\tleft\nright"),
        ("left's", "right's"),
        ("lefts", "lefts"),
        ("", ""),
    ],
)
def test_flip_of_words(text, mirrored):
    assert Flip(1.0)(picture(), [text], sample_rng(0))[1] == [mirrored]
    assert Flip(1.0)(picture(), [mirrored], sample_rng(0))[1] == [text]


def test_flip_of_other_languages():
    flip = Flip(1.0, (("links", "rechts"), ("левый", "правый"), ("左", "右"), ("sol el", "sağ el")))
    captions = ["Pfeil nach links", "ПРАВЫЙ край", "向左箭头和右", "Sol el", "left"]
    expected = ["Pfeil nach rechts", "ЛЕВЫЙ край", "向右箭头和左", "Sağ el", "left"]
    assert flip(picture(), captions, sample_rng(0))[1] == expected
    assert Flip(1.0, ())(picture(), ["left"], sample_rng(0))[1] == ["left"]


def test_jitter_stays_in_its_range():
    grey = Image.new("RGB", (2, 2), (100, 100, 100))
    made = [ColorJitter(0.2, 0, 0, 1.0)(grey, [], sample_rng(3, i))[0].getpixel((0, 0))[0] for i in range(200)]
    assert 80 <= min(made) < 84 < 116 < max(made) <= 120
    assert ColorJitter(0, 0, 0, 1.0)(picture(), [], sample_rng(0))[0].tobytes() == picture().tobytes()
    assert ColorJitter(p=0.0)(picture(), [], sample_rng(0))[0].tobytes() == picture().tobytes()
    full = [ColorJitter(0, 0, 5.0, 1.0)(picture(), [], sample_rng(4, i))[0] for i in range(50)]
    assert all(one.mode == "RGB" for one in full)  # a factor below 0 would be an error


def test_tint_keeps_white_and_scales_the_rest():
    image = Image.fromarray(np.array([[[255, 255, 255], [155, 155, 155], [0, 0, 0]]], dtype=np.uint8))
    distances = []
    for seed in range(300):
        made = np.asarray(Tint(0.2, 0.1)(image, [], sample_rng(5, seed))[0])[0].astype(int)
        assert made[0].tolist() == [255, 255, 255]
        distances.append(255 - made[1])
    low, high = np.min(distances), np.max(distances)
    assert 70 <= low < 78 < 123 < high <= 131
    assert np.ptp(distances, axis=1).max() <= 21
    assert Tint(0, 0)(picture(), [], sample_rng(0))[0].tobytes() == picture().tobytes()


def test_grayscale():
    array = np.asarray(Grayscale(1.0)(picture(), [], sample_rng(0))[0])
    assert (array == array[..., :1]).all()
    assert Grayscale(0.0)(picture(), [], sample_rng(0))[0].tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResizedCrop(scale=(0.9, 0.1)), "scale"),
        (lambda: RandomResizedCrop(scale=(0.9, 1.1)), "scale"),
        (lambda: RandomResizedCrop(ratio=(0.0, 1.0)), "ratio"),
        (lambda: RandomAffine(scale=(-1.0, 1.0)), "scale"),
        (lambda: Flip(1.5), "p"),
        (lambda: ColorJitter(p=-0.1), "p"),
        (lambda: Grayscale(2), "p"),
    ],
)
def test_arguments_that_cannot_be(make, argument):
    with pytest.raises(ArgumentError) as raised:
        make()
    assert raised.value.argument == argument


YAML = """
transforms:
  - {class_path: clipkit.data.RandomResizedCrop, init_args: {scale: [0.5, 1.0], size: 8}}
  - {class_path: clipkit.data.RandomAffine, init_args: {scale: [0.7, 1.5]}}
  - {class_path: clipkit.data.Flip, init_args: {words: [[left, right], [links, rechts]]}}
  - class_path: clipkit.data.ColorJitter
  - {class_path: clipkit.data.Grayscale, init_args: {p: 0.2}}
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_from_yaml():
    parser = ArgumentParser()
    parser.add_argument("--transforms", type=Sequence[SampleTransform], default=())
    made = parser.instantiate_classes(parser.parse_string(YAML)).transforms
    assert [type(one).__name__ for one in made] == [
        "RandomResizedCrop",
        "RandomAffine",
        "Flip",
        "ColorJitter",
        "Grayscale",
    ]
    assert tuple(made[0].scale) == (0.5, 1.0)
    image = picture()
    for transform in made:
        image, _ = transform(image, ["links left"], sample_rng(0, 1))
    assert image.mode == "RGB"
    assert Flip(1.0, made[2].words)(image, ["links left"], sample_rng(0))[1] == ["rechts right"]
