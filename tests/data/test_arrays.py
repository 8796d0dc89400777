"""Pixels that never were a PIL image against those of Pillow."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from clipkit.data import Flip, RandomResizedCrop, fit_image, open_image, sample_rng
from clipkit.data.arrays import fit_array, read_array, stretch
from clipkit.data.prepare import Prepare
from clipkit.types import ArgumentError, InputSpec

HOPPER = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"


def spec(height: int = 224, width: int = 224, interpolation: str = "bicubic") -> InputSpec:
    return InputSpec((height, width), (0.5,) * 3, (0.5,) * 3, interpolation, "", 8, "longest")


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ppm(pixels: np.ndarray) -> bytes:
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(one.astype(float) - other).mean())))


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Three photographs, 500 pixels on the longer side."""
    images = [Image.open(HOPPER).convert("RGB"), *map(Image.fromarray, load_sample_images().images)]
    for image in images:
        image.thumbnail((500, 500), Image.Resampling.LANCZOS)
    assert [max(image.size) for image in images] == [500] * 3
    return images


@pytest.mark.parametrize("size", [(224, 224), (64, 64), (336, 336), (600, 600), (160, 288)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_photographs_as_pillow_makes_them(photographs, size, interpolation):
    for image in photographs:
        data, wanted = encoded(image, quality=90), spec(*size, interpolation)
        for seed in (None, 1):
            fast, exact = (None if seed is None else sample_rng(seed) for _ in range(2))
            reference = np.asarray(fit_image(open_image(data), wanted, exact))
            made = fit_array(read_array(data), wanted, fast)
            assert made.shape == reference.shape == (*size, 3)
            assert psnr(made, reference) > 60  # rounding
            assert (interpolation != "nearest") or np.array_equal(made, reference)


@pytest.mark.parametrize("side", [64, 128, 224, 250, 320, 500])
def test_a_jpeg_that_shrinks_is_decoded_quicker_and_nearly_the_same(photographs, side):
    for image in photographs:
        data = encoded(image, quality=90)
        quick, reference = (Prepare(spec(side, side), decode=decode) for decode in ("fast", "reference"))
        made, exact = (way(way.open(data), "", sample_rng(0))[0].numpy() for way in (quick, reference))
        shrinks = min(image.size) >= side * 4 / 3
        assert psnr(made, exact) > (42 if shrinks else 60)
        assert (psnr(made, exact) < 60) == shrinks  # it is taken


@pytest.mark.parametrize("seed", range(6))
def test_the_same_crop_and_mirror(photographs, seed):
    transforms = [RandomResizedCrop((0.3, 1.0), size=96 if seed % 2 else None), Flip(), quieter, Flip()]
    for image in photographs:
        data = encoded(image, quality=90)
        made = {}
        for decode in ("fast", "reference"):
            prepare = Prepare(spec(96, 96), transforms, decode)
            opened = prepare.open(data)
            assert isinstance(opened, np.ndarray) == (decode == "fast")
            made[decode] = prepare(opened, "left", sample_rng(seed))
        assert made["fast"][1] == made["reference"][1]
        assert psnr(made["fast"][0].numpy(), made["reference"][0].numpy()) > 40


def quieter(image, captions, rng):
    """A transform of a user's own, which knows of PIL images alone."""
    return image.point(lambda value: value // 2), [f"{word} {rng.random():.3f}" for word in captions]


def test_reference_is_pillow_to_the_bit(photographs):
    data = encoded(photographs[0])
    prepare = Prepare(spec(), decode="reference")
    made, _ = prepare(prepare.open(data), "", sample_rng(3))
    expected = np.asarray(fit_image(open_image(data), spec(), sample_rng(3)))
    assert torch.equal(made.permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_a_transform_that_needs_pillow_gets_it(photographs):
    prepare = Prepare(spec(), [quieter], "fast")
    data = encoded(photographs[0])
    assert isinstance(prepare.open(data), Image.Image)
    assert isinstance(Prepare(spec(), [RandomResizedCrop(), quieter]).open(data), np.ndarray)


def test_another_decode_is_refused():
    with pytest.raises(ArgumentError, match="decode: 'quick' is not one of `fast`, `reference`"):
        Prepare(spec(), decode="quick")


def test_what_is_read_here(photographs, tmp_path):
    image = photographs[0]
    data, path = encoded(image), tmp_path / "a.jpg"
    path.write_bytes(data)
    exact = np.asarray(open_image(data))
    for value in (
        data,
        memoryview(data),
        path,
        str(path),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ):
        assert np.array_equal(read_array(value), exact)
    for plain in (
        encoded(image, progressive=True),
        encoded(image, subsampling=0),
        encoded(image, exif=exif_of(1)),
        encoded(image.convert("L")),
        data + b"rubbish" * 9,
    ):
        assert np.array_equal(read_array(plain), np.asarray(open_image(plain)))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_what_is_left_to_pillow(photographs, tmp_path, monkeypatch):
    image = photographs[0]
    data = encoded(image)
    app1 = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    turned_by_xmp = data[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + data[2:]
    assert open_image(turned_by_xmp).size == image.size[::-1]
    left = [
        turned_by_xmp,
        encoded(image.convert("CMYK")),
        data[:-2],
        data[: len(data) // 2],
        data[:20],
        b"",
        b"text",
        None,
        3,
    ]
    left += [encoded(image, exif=exif_of(orientation)) for orientation in range(2, 9)]
    left += [encoded(image, "PNG"), image, noise(4, 4), tmp_path, tmp_path / "none.jpg", {"bytes": None, "path": None}]
    left += [
        ppm(noise(5, 4))[:-1],
        ppm(noise(5, 4)) + b"x",
        b"P6\n0 4\n255\n",
        b"P6\n# a\n1 1\n255\nabc",
        b"P6\n1 1\n65535\nabcdef",
    ]
    for value in left:
        assert read_array(value) is None
    monkeypatch.setattr("clipkit.data.arrays.MOST_PIXELS", 100)
    assert read_array(encoded(Image.new("RGB", (11, 10)))) is None
    assert read_array(ppm(noise(11, 10))) is None
    assert read_array(ppm(noise(10, 10))) is not None


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff")
        os.truncate(file.fileno(), 500_000_000)
    assert read_array(tmp_path / "large.jpg") is None


def test_damage_is_judged_alike(photographs):
    """At each of some hundred places one byte is flipped, or the file ends."""
    small = photographs[1].resize((64, 48))
    data, rng = encoded(small), np.random.default_rng(0)
    for place in [*range(2, 200, 3), *rng.integers(200, len(data), 150).tolist()]:
        for damaged in (
            data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :],
            data[:place],
        ):
            outcomes = []
            for decode in ("fast", "reference"):
                try:
                    opened = Prepare(spec(), decode=decode).open(damaged)
                    outcomes.append(np.asarray(opened).shape)
                except Exception as error:
                    outcomes.append(type(error))
            assert outcomes[0] == outcomes[1], place


def test_packed_pixels_are_seen_in_place():
    pixels = noise(300, 256)
    data = ppm(pixels)
    seen = read_array(memoryview(data))
    assert np.array_equal(seen, pixels)
    assert np.array_equal(seen, np.asarray(open_image(data)))
    assert np.shares_memory(seen, np.frombuffer(data, np.uint8))
    crop = fit_array(seen, spec(256, 256))
    assert np.shares_memory(crop, seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of memory that must not be written
        made, _ = Prepare(spec(256, 256))(seen, "", None)
    assert np.array_equal(made.permute(1, 2, 0).numpy(), pixels[:, 22:278])


def test_stretch_of_a_view(photographs):
    image = photographs[2]
    part = np.asarray(image)[31:200, 17:300]
    made = stretch(part, 96, 80, "bicubic")
    assert psnr(made, np.asarray(image.crop((17, 31, 300, 200)).resize((80, 96), Image.Resampling.BICUBIC))) > 60
    box = stretch(part, 96, 80, "box")
    assert np.array_equal(box, np.asarray(image.crop((17, 31, 300, 200)).resize((80, 96), Image.Resampling.BOX)))


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (2, 5000), (1, 1), (3, 700)])
@pytest.mark.parametrize("seed", [None, 0])
def test_thin_lines(size, seed):
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    fast, exact = (None if seed is None else sample_rng(seed) for _ in range(2))
    made = fit_array(np.asarray(image), spec(64, 64), fast)
    assert psnr(made, np.asarray(fit_image(image, spec(64, 64), exact))) > 45
