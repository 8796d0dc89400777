"""Images of every kind against values worked out by hand, and sizes against torchvision."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from clipkit.data import Unusable
from clipkit.data.images import fit_image, open_image, pixels, to_pixels
from clipkit.types import InputSpec

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def spec(height: int, width: int, interpolation: str = "bicubic") -> InputSpec:
    return InputSpec((height, width), (0.5,) * 3, (0.5,) * 3, interpolation, "", 8, "longest")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def values(image: Image.Image) -> list:
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def test_transparent_is_white():
    rgba = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 255, 51]]], dtype=np.uint8))
    assert values(open_image(encoded(rgba, "PNG"))) == [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]
    la = Image.fromarray(np.array([[[100, 255], [100, 0], [0, 51]]], dtype=np.uint8), "LA")
    assert values(open_image(encoded(la, "PNG"))) == [[[100] * 3, [255] * 3, [204] * 3]]
    for premultiplied in (rgba.convert("RGBa"), la.convert("La")):
        assert open_image(premultiplied).getpixel((1, 0)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette(kind):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putdata([0, 1])
    data = encoded(palette, kind, transparency=1)
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert values(open_image(data)) == [[[255, 0, 0], [255, 255, 255]]]
    assert values(open_image(encoded(palette, kind))) == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize(("mode", "key"), [("RGB", GREEN), ("L", 7), ("1", 0)])
def test_transparent_colour(mode, key):
    image = Image.new(mode, (2, 1), key)
    image.putpixel((0, 0), {"RGB": RED, "L": 90, "1": 1}[mode])
    opened = open_image(encoded(image, "PNG", transparency=key))
    assert opened.getpixel((1, 0)) == WHITE
    assert opened.getpixel((0, 0)) == {"RGB": RED, "L": (90,) * 3, "1": WHITE}[mode]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_upright(orientation, kind):
    upright = Image.fromarray(noise(3, 2))
    stored = {  # what a camera that was held so has written
        1: upright,
        2: ImageOps.mirror(upright),
        3: upright.rotate(180),
        4: ImageOps.flip(upright),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    opened = open_image(encoded(stored, kind, exif=exif, **options))
    assert values(opened) == values(upright)
    assert values(open_image(opened)) == values(upright)  # it is not turned twice


def test_cmyk():
    cmyk = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    assert open_image(cmyk).getpixel((0, 0)) == RED
    red, green, blue = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled(kind):
    deep = np.repeat(np.array([[0, 128, 129, 257, 25700, 32768, 65535]], dtype=np.uint16), 7, axis=0)
    image = Image.fromarray(deep)
    opened = open_image(encoded(image, kind))
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 0, 1, 1, 100, 128, 255]
    assert values(open_image(image)) == values(open_image(deep)) == values(opened)


def test_sixteen_bits_big_endian():
    image = Image.frombytes("I;16B", (3, 1), np.array([0, 25700, 65535], dtype=">u2").tobytes())
    assert [pixel[0] for pixel in values(open_image(image))[0]] == [0, 100, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_other_modes(mode):
    image = Image.fromarray(noise(5, 4)).convert(mode)
    assert values(open_image(image)) == values(image.convert("RGB"))


def test_floats_are_refused():
    with pytest.raises(ValueError, match="no known range"):
        open_image(encoded(Image.new("F", (2, 2)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert open_image(data).getpixel((1, 1)) == RED


def test_whatever_it_comes_as(tmp_path):
    array = noise(5, 3)
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for value in (
        image,
        array,
        data,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": data, "path": "elsewhere.png"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        assert values(open_image(value)) == array.tolist()
    assert (
        values(open_image(array[..., :1]))
        == values(open_image(array[..., 0]))
        == values(image.split()[0].convert("RGB"))
    )
    assert open_image(np.full((2, 2, 4), (255, 0, 0, 0), dtype=np.uint8)).getpixel((0, 0)) == WHITE
    assert open_image(encoded(image, "PCX")).size == (5, 3)  # a format that few use
    assert image.mode == "RGB"


@pytest.mark.parametrize("value", [None, b"", "", {"bytes": None}, {"bytes": b""}])
def test_nothing(value):
    with pytest.raises(Unusable, match="there is no image"):
        open_image(value)


def test_more_pixels_than_may_be_decoded(monkeypatch):
    monkeypatch.setattr("clipkit.data.images.MOST_PIXELS", 100)
    assert open_image(encoded(Image.new("RGB", (10, 10)), "PNG")).size == (10, 10)
    with pytest.raises(Unusable, match="11 x 10 pixels are more than 100"):
        open_image(encoded(Image.new("RGB", (11, 10)), "PNG"))


@pytest.mark.parametrize("value", [3, np.zeros((2, 2, 3)), np.zeros((3, 4, 5), np.uint8), [1]])
def test_what_is_no_image(value):
    with pytest.raises(TypeError, match="image"):
        open_image(value)


def test_what_cannot_be_read(tmp_path):
    data = encoded(Image.fromarray(noise(40, 40)), "PNG")
    for broken in (b"text", data[:200], tmp_path / "none.png"):
        with pytest.raises(OSError, match=r"."):
            open_image(broken)


SIZES = [
    (64, 64),
    (48, 64),
    (64, 48),
    (33, 100),
    (101, 37),
    (20, 20),
    (31, 7),
    (32, 32),
    (32, 50),
    (224, 60),
    (1, 9),
    (15, 1),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_fit_is_torchvisions(size, interpolation):
    image = Image.fromarray(noise(*size))
    theirs = Compose([Resize(32, InterpolationMode(interpolation)), CenterCrop(32)])(image)
    assert values(fit_image(image, spec(32, 32, interpolation))) == values(theirs)


@pytest.mark.parametrize("size", [(64, 64), (10, 90), (90, 10), (24, 16), (48, 32), (1, 1)])
def test_fit_to_a_rectangle(size):
    image = fit_image(Image.fromarray(noise(*size)), spec(16, 24))
    assert image.size == (24, 16)


def test_random_crops_go_everywhere_and_nowhere_else():
    image = Image.fromarray(np.arange(40, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2))  # 40 x 32
    lefts = {fit_image(image, spec(32, 32), np.random.default_rng(i)).getpixel((0, 0))[0] for i in range(200)}
    assert lefts == set(range(9))
    tall = image.transpose(Image.Transpose.TRANSPOSE)
    assert {fit_image(tall, spec(32, 32), np.random.default_rng(i)).getpixel((0, 0))[0] for i in range(200)} == lefts


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (2, 5000)])
@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_a_thin_line_takes_little_memory(size, rng, monkeypatch):
    made, resize = [], Image.Image.resize

    def watched(self, size, *args, **kwargs):
        made.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    made.clear()
    assert fit_image(image, spec(64, 64), rng).size == (64, 64)
    assert max(made) <= 16 * 64 * 64
    if rng is None:
        middle = np.asarray(fit_image(image, spec(64, 64)), dtype=float).mean()
        assert abs(middle - np.asarray(image, dtype=float)[image.height // 2, image.width // 2].mean()) < 3


def test_to_pixels():
    array = noise(5, 3)
    made = to_pixels(Image.fromarray(array))
    assert made.dtype == torch.uint8
    assert made.is_contiguous()
    assert made.permute(1, 2, 0).tolist() == array.tolist()


def test_pixels_of_one_or_several(tmp_path: Path):
    arrays = np.stack([noise(32, 32), noise(32, 32)[::-1]])
    Image.fromarray(arrays[0]).save(tmp_path / "a.png")
    expected = torch.from_numpy(arrays.copy()).permute(0, 3, 1, 2)
    size = spec(32, 32)
    assert torch.equal(pixels(arrays, size), expected)
    assert torch.equal(pixels(list(arrays), size), expected)
    assert torch.equal(pixels(tuple(Image.fromarray(a) for a in arrays), size), expected)
    for one in (arrays[0], Image.fromarray(arrays[0]), str(tmp_path / "a.png"), tmp_path / "a.png", [arrays[0]]):
        assert torch.equal(pixels(one, size), expected[:1])
    floats = torch.rand(2, 3, 8, 8)
    assert pixels(floats, size) is floats
    assert pixels(floats[0], size).shape == (1, 3, 8, 8)
    assert pixels([noise(50, 40), (tmp_path / "a.png").read_bytes()], size).shape == (2, 3, 32, 32)
