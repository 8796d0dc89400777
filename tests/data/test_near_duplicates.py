from __future__ import annotations

import io
import time
from collections import Counter

import numpy as np
import psutil
import pytest
from PIL import Image

from clipkit.data import load_rows
from clipkit.data.near_duplicates import MOST_IN_BUCKET, NearDuplicates, thumbnail


def encoded_anew(image: Image.Image, quality: int = 60) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    margin = round(image.width * (1 - share) / 2)
    return image.crop((margin, margin, image.width - margin, image.height - margin))


@pytest.fixture(scope="module")
def drawings():
    """Every drawing of one style, to the pixel different from all others: many faces, people, clocks and flags."""
    rows = load_rows("emoji/all").filter(lambda style: style == "twemoji", input_columns="style", keep_in_memory=True)
    distinct = {row["pixel_hash"]: row["image"].convert("RGB") for row in rows}
    return list(distinct.values())


@pytest.fixture(scope="module")
def found(drawings):
    """(which original, kind, the drawing that was found) of 900 copies among all 1,881 drawings."""
    index, rng = NearDuplicates(), np.random.default_rng(0)
    for image in drawings:
        index.add(thumbnail(image))
    results = []
    for number in rng.choice(len(drawings), 300, replace=False).tolist():
        image = drawings[number]
        copies = {
            "encoded": encoded_anew(image),
            "half": half(image),
            "cropped": cropped(image, rng.uniform(0.85, 0.9)),
        }
        results += [(number, kind, index.find(thumbnail(copy))) for kind, copy in copies.items()]
    return results


def test_copies_are_found(found):
    right = Counter(kind for number, kind, match in found if match == number)
    assert right["encoded"] >= 0.97 * 300
    assert right["half"] >= 0.97 * 300
    assert right["cropped"] >= 0.93 * 300


def test_what_is_found_is_the_original(found):
    matches = [match == number for number, _, match in found if match is not None]
    assert np.mean(matches) >= 0.98


def test_other_drawings_of_the_same_style_are_told_apart(drawings):
    index = NearDuplicates()
    alike = 0
    for image in drawings[:600]:
        thumb = thumbnail(image)
        alike += index.find(thumb) is not None
        index.add(thumb)
    assert alike <= 6


def test_it_does_not_matter_which_of_two_comes_first(drawings):
    image = drawings[700]
    for first, second in ((image, cropped(image, 0.87)), (cropped(image, 0.87), image)):
        index = NearDuplicates()
        index.add(thumbnail(drawings[3]))
        number = index.add(thumbnail(first))
        assert index.find(thumbnail(second)) == number


def test_colour_alone_tells_images_apart():
    shape = np.zeros((64, 64, 3), dtype=np.uint8) + 255
    red, green = shape.copy(), shape.copy()
    red[16:48, 20:44] = (200, 60, 60)
    green[16:48, 20:44] = (40, 131, 40)  # of the same luma
    index = NearDuplicates()
    index.add(thumbnail(Image.fromarray(red)))
    assert index.find(thumbnail(Image.fromarray(green))) is None
    assert index.find(thumbnail(Image.fromarray(red))) == 0


def test_thousands_of_equal_images_fill_no_bucket():
    index, same = NearDuplicates(), thumbnail(Image.linear_gradient("L").convert("RGB"))
    for _ in range(3 * MOST_IN_BUCKET):
        index.add(same)
    assert index.find(same) == 0
    assert max(len(bucket) for table in (*index._whole, *index._cropped) for bucket in table.values()) <= MOST_IN_BUCKET


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_a_hundred_thousand(capsys):
    """What docs/data-tools.md says of time and memory: drawings of all styles, turned, mirrored and as negatives."""
    rows = load_rows("emoji/all")
    thumbs = [thumbnail(row["image"].convert("RGB")) for row in rows]
    rng, index, began = np.random.default_rng(0), NearDuplicates(), psutil.Process().memory_info().rss
    kinds = [(turn, mirror, negative) for negative in (False, True) for mirror in (False, True) for turn in range(4)]
    each = [(number, kind) for kind in kinds for number in range(len(thumbs))]
    taken = {}
    for count, (number, (turn, mirror, negative)) in enumerate(each[:100_000], 1):
        thumb = np.rot90(thumbs[number], turn)
        thumb = thumb[:, ::-1] if mirror else thumb
        index.add(np.ascontiguousarray(255 - thumb if negative else thumb))
        if count in (1_000, 10_000, 100_000):
            asked = [thumbs[i] for i in rng.choice(len(thumbs), 300, replace=False)]
            start = time.process_time()
            for one in asked:
                index.find(one)
            taken[count] = (time.process_time() - start) / 300
            held = (psutil.Process().memory_info().rss - began) / count
            with capsys.disabled():
                print(f"\n{count:,} images: {held / 1000:.1f} kB each, {1000 * taken[count]:.1f} ms a search", end="")
    with capsys.disabled():
        print(f"\na search among 100,000 takes {taken[100_000] / taken[1_000]:.1f} times one among 1,000")
