"""Copies of images that were re-encoded, resized or cropped, found without comparing all with all.

Candidates come from random hyperplanes (Charikar 2002, Similarity estimation techniques from rounding algorithms) over
the low frequencies of an image and of some crops of it, and from the neighbouring buckets of the bits that are nearest
to turning (Lv et al. 2007, Multi-probe LSH). A candidate is then laid over the image (Lucas and Kanade 1981) and
compared in 8 x 8 blocks, with and without a tolerance of one pixel, so that faces that differ in a thin line are told
apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NearDuplicates", "thumbnail"]

SIZE = 32
FREQUENCIES = 7
BITS, TABLES, TURNED = 24, 3, 6
MOST_IN_BUCKET = 32
"""What thousands share, such as a blank image, is looked up among the first ones: the work stays linear."""
MOST_COMPARED = 4
LEAST_COSINE = 0.9
# In grey levels, of the mean of any of 8 x 8 blocks; chosen on emoji of 64 pixels, where copies stay below.
MOST_DIFFERENT = 20
MOST_ADDED, MOST_LOST, MOST_COLOURED = 26, 4, 8
"""What a tolerance of one pixel does not explain: light and dark only in the part, only in the whole, and colours."""
STEPS = 8
# Scale, and shift as a share of half the side: whole, three central crops, one at each corner.
CROPS = (
    *((scale, 0.0, 0.0) for scale in (1.0, 0.95, 0.9, 0.85)),
    *((0.88, x, y) for x in (-0.12, 0.12) for y in (-0.12, 0.12)),
)
Array = NDArray[np.float32]
Buckets = list[dict[int, list[int]]]


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """(32, 32, 3) luma and chroma of an RGB image, all that its copies are known by."""
    small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(small.convert("YCbCr"))


class NearDuplicates:
    """Thumbnails, and a search for one that an image is a copy of, whichever of the two is the original.

    An image takes about 7 kB of memory.
    """

    def __init__(self) -> None:
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._described: list[NDArray[np.float16]] = []
        self._whole: Buckets = [{} for _ in range(TABLES)]  # image numbers
        self._cropped: Buckets = [{} for _ in range(TABLES)]  # image number x crops + crop

    def add(self, thumb: NDArray[np.uint8]) -> int:
        """Take an image in; its number, counted from 0."""
        number, described = len(self._thumbnails), _describe(thumb)
        self._thumbnails.append(thumb)
        self._described.append(described.astype(np.float16))
        for table, keys in enumerate(_keys(described)):
            _put(self._whole[table], keys[0], number)
            for crop in range(1, len(CROPS)):
                _put(self._cropped[table], keys[crop], number * len(CROPS) + crop)
        return number

    def find(self, thumb: NDArray[np.uint8]) -> int | None:
        """The image taken in that this one, (32, 32, 3) uint8, copies best, or None."""
        described, best = _describe(thumb), 1.0
        found = None
        for number, mine, theirs in self._candidates(described):
            other = self._thumbnails[number]
            difference = 1.0 if theirs else _difference(thumb, other, CROPS[mine])
            if not mine:  # of two whole ones either may be the sharper
                difference = min(difference, _difference(other, thumb, CROPS[theirs]))
            if difference < best:
                best, found = difference, number
        return found

    def _candidates(self, described: Array) -> Iterator[tuple[int, int, int]]:
        """Number, crop of the one asked for and crop of the candidate: one of both is whole. The most alike first."""
        pairs = [(number, crop, 0) for crop in range(len(CROPS)) for number in _look_up(self._whole, described[crop])]
        pairs += [(entry // len(CROPS), 0, entry % len(CROPS)) for entry in _look_up(self._cropped, described[0])]
        if not pairs:
            return
        theirs = np.stack([self._described[number][crop] for number, _, crop in pairs]).astype(np.float32)
        alike = (theirs * described[[crop for _, crop, _ in pairs]]).sum(1)
        compared: set[int] = set()
        for place in np.argsort(-alike, kind="stable").tolist():
            if len(compared) == MOST_COMPARED or alike[place] < LEAST_COSINE:
                return
            if pairs[place][0] not in compared:
                compared.add(pairs[place][0])
                yield pairs[place]


def _look_up(buckets: Buckets, described: Array) -> set[int]:
    found: set[int] = set()
    for table, plane in zip(buckets, PLANES, strict=True):
        projected = described @ plane
        weak = np.argsort(np.abs(projected))[:TURNED]
        for key in (_key(projected) ^ (TURNS @ (1 << weak))).tolist():
            found.update(table.get(key, ()))
    return found


def _put(table: dict[int, list[int]], key: int, entry: int) -> None:
    bucket = table.setdefault(key, [])
    if len(bucket) < MOST_IN_BUCKET:
        bucket.append(entry)


def _describe(thumb: NDArray[np.uint8]) -> Array:
    """(crops, F) low frequencies of the luma of each crop, of length 1."""
    luma = thumb[..., 0].astype(np.float32)
    waves = (ROWS @ luma @ COLUMNS).reshape(len(CROPS), -1)[:, 1:] * WEIGHTS
    described: Array = waves / np.maximum(np.linalg.norm(waves, axis=1, keepdims=True), 1.0)
    return described


def _keys(described: Array) -> list[list[int]]:
    """For each table the key of each crop."""
    return [_key(described @ plane).tolist() for plane in PLANES]


def _key(projected: Array) -> Any:
    return (projected > 0) @ (1 << np.arange(BITS))


def _difference(large: NDArray[np.uint8], small: NDArray[np.uint8], crop: tuple[float, float, float]) -> float:
    """How much a part of one image differs from another one, laid over it, in the worst place; a copy is below 1."""
    whole, part = large.astype(np.float32), small.astype(np.float32)
    place = _lay_over(BLUR @ whole[..., 0] @ BLUR.T, BLUR @ part[..., 0] @ BLUR.T, crop)
    rows, columns = _sampling(place[2], place[3]), _sampling(place[0], place[1])
    moved = (rows @ whole.transpose(2, 0, 1) @ columns.T).astype(np.float32)
    still = part.transpose(2, 0, 1)
    added, lost = _blocks(_outside(still, moved)), _blocks(_outside(moved, still))  # the part is the sharper one
    plain = np.abs(_blocks(moved - still)).max() / MOST_DIFFERENT
    coloured = max(added[1:].max(), lost[1:].max()) / MOST_COLOURED
    return float(max(plain, added[0].max() / MOST_ADDED, lost[0].max() / MOST_LOST, coloured))


def _blocks(image: Array) -> Array:
    """(3, 32, 32) to (3, 8, 8) means."""
    means: Array = image.reshape(3, 8, SIZE // 8, 8, SIZE // 8).mean((2, 4))
    return means


def _outside(image: Array, other: Array) -> Array:
    """(3, 32, 32) how far each value is from all that lie within one pixel of it in another image."""
    padded = np.pad(other, ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = np.stack([padded[:, y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)])
    far: Array = np.maximum(0, np.maximum(image - near.max(0), near.min(0) - image))
    return far


def _lay_over(whole: Array, part: Array, crop: tuple[float, float, float]) -> Array:
    """Scale and shift along x, then along y, that take a part's pixels to those of the whole; Gauss-Newton."""
    scale, x, y = crop
    place = np.array([scale, x, scale, y], dtype=np.float32)
    for _ in range(STEPS):
        moved = _sampling(place[2], place[3]) @ whole @ _sampling(place[0], place[1]).T
        down, right = np.gradient(moved)
        down, right = down * (SIZE / 2 / place[2]), right * (SIZE / 2 / place[0])
        slopes = np.stack([right * PLACES, right, down * PLACES[:, None], down], axis=-1).reshape(-1, 4)
        normal = slopes.T @ slopes
        normal += np.eye(4, dtype=np.float32) * (1e-6 + 1e-3 * np.trace(normal) / 4)
        step = np.clip(np.linalg.solve(normal, slopes.T @ (part - moved).ravel()), -0.05, 0.05)
        place = np.clip(place + step, [0.7, -0.3, 0.7, -0.3], [1.05, 0.3, 1.05, 0.3]).astype(np.float32)
        if np.abs(step).max() < 1e-3:
            break
    return place


def _sampling(scale: float, shift: float) -> Array:
    """(32, 32) the matrix that samples 32 places of a line, linearly; positions run from -1 to 1."""
    at = np.clip((scale * PLACES + shift + 1) / 2 * SIZE - 0.5, 0, SIZE - 1)
    weights: Array = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIZE))).astype(np.float32)
    return weights


def _planes() -> list[Array]:
    rng = np.random.default_rng(0)
    count = FREQUENCIES**2 - 1
    square = [np.linalg.qr(rng.standard_normal((count, count)))[0] for _ in range(TABLES)]
    return [plane[:, :BITS].astype(np.float32) for plane in square]


PLACES = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1).astype(np.float32)
PLANES = _planes()
TURNS = (np.arange(1 << TURNED)[:, None] >> np.arange(TURNED)) & 1
WAVES = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * (np.arange(SIZE) + 0.5) / SIZE).astype(np.float32)
WEIGHTS = np.sqrt(np.hypot(*np.divmod(np.arange(1, FREQUENCIES**2), FREQUENCIES))).astype(np.float32)
ROWS = np.stack([WAVES @ _sampling(scale, y) for scale, _, y in CROPS])
COLUMNS = np.stack([(WAVES @ _sampling(scale, x)).T for scale, x, _ in CROPS])
BLUR = np.exp(-0.5 * (np.arange(SIZE)[:, None] - np.arange(SIZE)) ** 2).astype(np.float32)
BLUR /= BLUR.sum(1, keepdims=True)
