"""Times of several things measured in turn, so that a machine that is busy for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

__all__ = ["Ratio", "interleaved", "ratio", "repeated", "seconds_a_sample", "wait"]


class Ratio(NamedTuple):
    """How two sides compare: the quotient of the medians, and the least and most of a round."""

    median: float
    least: float
    most: float


def interleaved(sides: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
    """Run each side once to warm up, then all of them in each round, beginning with another one every time.

    Args:
        sides: Name to what is run; its wall time counts, or the seconds that it gives back.
        rounds: How often.

    Returns:
        Name to seconds, one a round.
    """
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            given = sides[name]()
            taken[name].append(time.perf_counter() - start if given is None else given)
    return taken


def repeated(run: Callable[[], None], times: int) -> Callable[[], float]:
    """So many runs as a side of :func:`interleaved`, where one would soon be over; it gives the seconds of one."""

    def side() -> float:
        start = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - start) / times

    return side


def ratio(one: list[float], other: list[float]) -> Ratio:
    """One side's seconds by the other's, of the same rounds: how many times as fast the other is."""
    each = [a / b for a, b in zip(one, other, strict=True)]
    return Ratio(statistics.median(one) / statistics.median(other), min(each), max(each))


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_a_sample(loader: Iterable[Any], batch_size: int) -> float:
    """Wall time a sample from the first batch of a loader to the last, which leaves the start of workers out."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / (count * batch_size)
