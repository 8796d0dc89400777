"""Samples and batches: pure, whole, and cheap where it matters."""

from __future__ import annotations

import io
import pickle
import time

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from clipkit.data import (
    CaptionDataModule,
    CaptionedImages,
    Collate,
    Flip,
    RandomAffine,
    Recipe,
    SampleKey,
    SampleMaker,
    Tint,
    TooManyUnusable,
    choose_captions,
)
from clipkit.data.hashes import stable_id
from clipkit.tokens import Tokenizer, read_tokenizer
from clipkit.types import InputSpec

SPEC = InputSpec((6, 6), (0.5,) * 3, (0.5,) * 3, "bilinear", read_tokenizer("emoji"), 8, "longest")
LONG = "a very long caption with many more words than there is room for in eight tokens"


def png(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def rows() -> Dataset:
    features = Features(
        image=Image(), captions=List(Value("string")), kind=Value("string"), weight=Value("float32"),
        box=List(Value("int32")), good=Value("bool"),
    )  # fmt: skip
    return Dataset.from_list(
        [
            {
                "image": {"bytes": png(i), "path": None},
                "captions": [f"left {i}", f"thing {i}", LONG],
                "kind": "ab"[i % 2],
                "weight": i / 2,
                "box": [i, i + 1],
                "good": i > 2,
            }
            for i in range(6)
        ],
        features=features,
    )


def samples_of(rows, **options) -> CaptionedImages:
    spec = options.pop("spec", SPEC)
    seed = options.pop("seed", 0)
    recipe = Recipe("image", choose_captions(rows, "captions"), **options)
    return CaptionedImages(rows, SampleMaker(recipe, spec), seed)


def keys(epoch: int = 0, count: int = 6) -> list[SampleKey]:
    return [SampleKey(epoch, i, (i * 5 + 2) % 6) for i in range(count)]


def same(a, b) -> bool:
    return all(
        torch.equal(x.image, y.image)
        and (x.caption, x.concept, x.position, x.extra) == (y.caption, y.concept, y.position, y.extra)
        for x, y in zip(a, b, strict=True)
    )


def test_a_sample_depends_on_its_key_alone(rows):
    samples = samples_of(rows, transforms=[Flip()], seed=3)
    together = samples.__getitems__(keys())
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(together, [samples[key] for key in keys()])
    assert same(together, list(reversed(samples.__getitems__(keys()[::-1]))))
    assert same(together, pickle.loads(pickle.dumps(samples)).__getitems__(keys()))
    assert not same(together, samples.__getitems__(keys(epoch=1)))
    assert not same(together, samples_of(rows, transforms=[Flip()], seed=4).__getitems__(keys()))
    assert [sample.position for sample in together] == list(range(6))
    assert len(samples) == 6


def test_images_are_bytes_of_the_models_size(rows):
    for train in (True, False):
        image = samples_of(rows, train=train)[SampleKey(0, 0, 1)].image
        assert (image.dtype, image.shape) == (torch.uint8, (3, 6, 6))


def test_validation_draws_nothing(rows):
    samples = samples_of(rows, transforms=[Flip(1.0)], train=False)
    assert [sample.caption for sample in samples.__getitems__(keys())] == [f"left {key.row}" for key in keys()]
    assert same(samples.__getitems__(keys(0)), samples.__getitems__(keys(5)))


def test_every_caption_is_drawn(rows):
    samples = samples_of(rows)
    drawn = {samples[SampleKey(0, i, 1)].caption for i in range(60)}
    assert drawn == {"left 1", "thing 1", LONG}


def test_transforms_see_image_captions_and_rng_in_turn(rows):
    seen = []

    def first(image, captions, rng):
        seen.append((image.size, list(captions), float(rng.random())))
        return image.crop((0, 0, 6, 6)), [caption.upper() for caption in captions]

    def second(image, captions, rng):
        seen.append((image.size, list(captions), float(rng.random())))
        return image, captions

    samples = samples_of(rows, transforms=[first, second])
    sample = samples[SampleKey(0, 9, 2)]
    (size, captions, _), (cropped, upper, _) = seen
    assert (size, cropped) == ((12, 8), (6, 6))
    assert len(captions) == 1
    assert upper == [captions[0].upper()] == [sample.caption]
    first_draws = [draw for *_, draw in seen]
    seen.clear()
    assert same([samples[SampleKey(0, 9, 2)]], [sample])
    assert [draw for *_, draw in seen] == first_draws
    assert samples_of(rows, transforms=[first], train=False)[SampleKey(0, 9, 2)].caption == "left 2"


def test_concepts(rows):
    key = SampleKey(0, 3, 4)
    assert samples_of(rows)[key].concept == 4
    assert samples_of(rows, concept="kind")[key].concept == stable_id("a")
    by_caption = samples_of(rows, concept="caption", transforms=[Flip(1.0)])[key]
    assert by_caption.concept == stable_id(by_caption.caption)


def test_rows_of_which_none_can_be_read(rows):
    broken = Dataset.from_list(
        [{"image": {"bytes": b"no image", "path": "x.png"}, "captions": ["a"]}, {"image": None, "captions": ["a"]}],
        features=Features(image=Image(), captions=List(Value("string"))),
    )
    with pytest.raises(TooManyUnusable, match=r"^20 rows in a row cannot be used; the last is "):
        samples_of(broken)[SampleKey(0, 0, 0)]
    with pytest.raises(TooManyUnusable, match=r"row 0 of x.png: it is in no image format"):
        samples_of(broken, train=False)[SampleKey(0, 0, 1)]


def test_a_batch(rows):
    samples = samples_of(rows, extra=["weight", "box", "good"], concept="kind").__getitems__(keys())
    batch = Collate(SPEC)(samples)
    assert (batch.image.dtype, batch.image.shape) == (torch.uint8, (6, 3, 6, 6))
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.image[2], samples[2].image)
    assert batch.position.tolist() == list(range(6))
    assert batch.concept.tolist() == [sample.concept for sample in samples]
    assert batch.concept.dtype == batch.position.dtype == batch.tokens.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    order = [key.row for key in keys()]
    assert batch.extra["weight"].tolist() == [row / 2 for row in order]
    assert batch.extra["box"].tolist() == [[row, row + 1] for row in order]
    assert batch.extra["good"].tolist() == [row > 2 for row in order]
    assert batch.extra["truncated"].tolist() == [sample.caption == LONG for sample in samples]
    for i, sample in enumerate(samples):  # a caption at a time gives the same tokens
        tokens, mask = Tokenizer(SPEC.tokenizer, 8)([sample.caption])
        assert batch.tokens[i][batch.mask[i]].tolist() == tokens[0][mask[0]].tolist()


@pytest.mark.parametrize(("pad", "length"), [("longest", None), ("max_length", 20)])
def test_padding_is_the_models(rows, pad, length):
    samples = samples_of(rows, train=False).__getitems__(keys())
    batch = Collate(SPEC._replace(pad=pad, context_length=20))(samples)
    longest = int(batch.mask.sum(1).max())
    assert batch.tokens.shape[1] == (length or longest)
    assert longest < 20
    assert not batch.extra["truncated"].any()


def test_one_call_of_the_tokenizer_a_batch(rows):
    class Counting:
        def __init__(self, rust):
            self.rust, self.calls = rust, []

        def __getattr__(self, name):
            self.calls.append(name)
            return getattr(self.rust, name)

    collate = Collate(SPEC)
    counting = collate.tokenizer._rust = Counting(collate.tokenizer._rust)
    collate(samples_of(rows).__getitems__(keys()))
    assert counting.calls == ["encode_batch"]


def test_it_can_be_sent_to_a_worker(rows):
    collate = pickle.loads(pickle.dumps(Collate(SPEC)))
    samples = samples_of(rows).__getitems__(keys())
    assert torch.equal(collate(samples).tokens, Collate(SPEC)(samples).tokens)


@pytest.mark.bench
@pytest.mark.parametrize("transforms", [[], [RandomAffine(), Tint()]], ids=["plain", "augmented"])
@pytest.mark.parametrize("size", [32, 64])
def test_images_a_second(size, transforms, capsys):
    """Of CPU time, on one core: read, decode, augment, resize, collate."""
    data = CaptionDataModule("emoji", workers=0, transforms=transforms)
    data.inputs = SPEC._replace(image_size=(size, size), context_length=32)
    batches, taken = iter(data.train_dataloader()), []
    for _ in range(25):
        start = time.process_time()
        next(batches)
        taken.append(time.process_time() - start)
    with capsys.disabled():
        what = f"loader, {size} px{', affine and tint' if transforms else ''}"
        print(f"\n| {what} | {256 / np.median(taken):,.0f} images/s and core |", end="")
