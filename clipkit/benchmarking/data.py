"""How fast samples are made, by stage, and what holds them up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from datasets import Dataset

from clipkit.benchmarking.timing import interleaved, ratio, seconds_a_sample
from clipkit.data import (
    CaptionedImages,
    Collate,
    EpochBatches,
    Flip,
    RandomResizedCrop,
    Recipe,
    Sample,
    SampleMaker,
    sample_rng,
)
from clipkit.data.loader import Loader
from clipkit.data.reading import Wanted, captioned
from clipkit.data.rows import mapped, read_rows
from clipkit.types import ArgumentError, InputSpec

__all__ = [
    "BATCH",
    "Subject",
    "loader_pass",
    "measure_stages",
    "one_thread",
    "psnr",
    "read_encoded",
    "subject",
    "transform_pass",
]

BATCH = 32
Made = TypeVar("Made")


class Subject(NamedTuple):
    """What is measured: rows whose images all decode, and how samples are made of them."""

    rows: Dataset
    recipe: Recipe
    spec: InputSpec

    @property
    def maker(self) -> SampleMaker:
        """Makes the samples."""
        return SampleMaker(self.recipe, self.spec)


def subject(rows: Dataset, spec: InputSpec, image: str | None, caption: str | None, count: int) -> Subject:
    """Some rows that can be used, evenly spread.

    Args:
        rows: A data set.
        spec: What samples are made for.
        image: The image column; None for the first with images.
        caption: The caption column; None for the first usual one.
        count: How many rows at most.

    Raises:
        ArgumentError: For a missing column, or where fewer than ``2 * BATCH`` rows can be used.
    """
    crop = RandomResizedCrop(size=spec.image_size[0], interpolation=spec.interpolation)
    wanted = Wanted(image, caption, None, (), ("{}",), "row", False, (), (crop,), "fast")
    found = captioned(rows, wanted, "caption")
    chosen = found.rows.select(np.unique(np.linspace(0, len(found.rows) - 1, count).astype(int)))
    recipe = wanted.recipe(found)
    chosen = chosen.select(_usable(chosen, SampleMaker(recipe, spec)))
    if len(chosen) < 2 * BATCH:
        raise ArgumentError("train", f"only {len(chosen)} rows can be used; a measurement takes at least {2 * BATCH}")
    return Subject(chosen, recipe, spec)


def _usable(rows: Dataset, maker: SampleMaker) -> list[int]:
    """Numbers of the rows that make a sample; `clipkit data check` says what is wrong with the others."""
    image = maker.recipe.image
    found, encoded = [], mapped(rows, maker.recipe.columns, image)
    for number in range(len(rows)):
        try:
            maker.make(read_rows(encoded, [number], image)[0], number, number, sample_rng(0, number))
            found.append(number)
        except Exception:  # decoders raise anything
            continue
    return found


def measure_stages(subject: Subject, rounds: int, workers: Sequence[int]) -> dict[str, Any]:
    """Time a sample by stage in one thread, and the loader with its workers.

    Args:
        subject: What is measured.
        rounds: How often each stage runs.
        workers: Numbers of loader processes, the first of which the others are held against.

    Returns:
        ``stages`` with milliseconds and images a second of each (``augment`` is a mirror image half of the time, which
        the loader does without), ``loader`` with images a second by number of workers and how many times as fast as
        with the first number, ``bottleneck`` with the slowest stage and its share, and ``psnr``.
    """
    taken = one_thread(lambda: interleaved(_stages(subject), rounds))
    stages = {name: 1000 * statistics.median(seconds) / len(subject.rows) for name, seconds in taken.items()}
    loaders = interleaved({f"{count}": loader_pass(subject, count) for count in workers}, rounds)
    first = loaders[f"{workers[0]}"]
    made = {name: ms for name, ms in stages.items() if name != "augment"}
    slowest = max(made, key=lambda name: made[name])
    return {
        "stages": {name: {"ms": ms, "images_per_second": 1000 / ms} for name, ms in stages.items()},
        "loader": {
            name: {
                "images_per_second": 1 / statistics.median(seconds),
                "times_as_fast": ratio(first, seconds)._asdict(),
            }
            for name, seconds in loaders.items()
        },
        "bottleneck": {"stage": slowest, "share": made[slowest] / sum(made.values())},
        "psnr": psnr(subject),
    }


def transform_pass(subject: Subject) -> Callable[[], None]:
    """Every image once, from its file or its bytes to pixels."""
    prepare = subject.maker.prepare
    rows, image = mapped(subject.rows, subject.recipe.columns, subject.recipe.image), subject.recipe.image

    def run() -> None:
        for batch in _batches(len(rows)):
            for row in read_rows(rows, batch, image):
                prepare(prepare.open(row[image]), "", sample_rng(0, 0))

    return run


def loader_pass(subject: Subject, workers: int) -> Callable[[], float]:
    """Every batch once, by the loader of the data module; gives seconds a sample."""
    samples, order = CaptionedImages(subject.rows, subject.maker), EpochBatches(len(subject.rows), BATCH)
    loader = Loader(samples, workers, persistent=True, batch_sampler=order, collate_fn=Collate(subject.spec))
    return lambda: seconds_a_sample(loader, BATCH)


def one_thread(run: Callable[[], Made]) -> Made:
    """Run with PyTorch on one thread, as a loader's worker is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(threads)


def psnr(subject: Subject, most: int = 64) -> dict[str, float]:
    """Peak signal-to-noise ratio of fast samples against Pillow's, in dB: the least and the median; 99 where equal."""
    found = []
    rows = mapped(subject.rows, subject.recipe.columns, subject.recipe.image)
    both = subject.maker, SampleMaker(subject.recipe._replace(decode="reference"), subject.spec)
    for number in range(min(most, len(rows))):
        row = read_rows(rows, [number], subject.recipe.image)[0]
        fast, exact = (maker.make(row, 0, 0, sample_rng(0, number)).image for maker in both)
        error = float((fast.double() - exact.double()).square().mean())
        found.append(min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9)))))
    return {"least": min(found), "median": statistics.median(found)}


def _stages(subject: Subject) -> dict[str, Callable[[], None]]:
    """Stage to a pass of it over all rows, from what the stage before it made."""
    recipe, count = subject.recipe, len(subject.rows)
    prepare, collate, flip = subject.maker.prepare, Collate(subject.spec), Flip()
    encoded = read_encoded(subject)
    opened = [prepare.open(row[recipe.image]) for row in encoded]
    images = [prepare(image, "", sample_rng(0, i))[0] for i, image in enumerate(opened)]
    samples = [Sample(image, "a", i, i, {}) for i, image in enumerate(images)]
    arrays, rng = [image.permute(1, 2, 0).numpy() for image in images], sample_rng(0)
    captions = [recipe.choice.draw(recipe.choice.candidates(row), None) for row in encoded]
    return {
        "read": lambda: _each(read_encoded, [subject]),
        "decode": lambda: _each(lambda row: prepare.open(row[recipe.image]), encoded),
        "crop and resize": lambda: _each(lambda image: prepare(image, "", sample_rng(0, 0)), opened),
        "augment": lambda: _each(lambda array: flip(array, ["a"], rng), arrays),
        "tokenize": lambda: _each(lambda numbers: collate.tokenizer([captions[i] for i in numbers]), _batches(count)),
        "collate": lambda: _each(lambda numbers: collate([samples[i] for i in numbers]), _batches(count)),
    }


def _each(step: Callable[[Any], object], things: Iterable[Any]) -> None:
    for thing in things:
        step(thing)


def _batches(count: int) -> list[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def read_encoded(subject: Subject) -> list[dict[str, Any]]:
    """All rows, the bytes of files among them."""
    rows, image = mapped(subject.rows, subject.recipe.columns, subject.recipe.image), subject.recipe.image
    found = [row for batch in _batches(len(rows)) for row in read_rows(rows, batch, image)]
    for row in found:
        if row[image]["bytes"] is None:
            row[image] = {"bytes": Path(row[image]["path"]).read_bytes(), "path": None}
    return found
