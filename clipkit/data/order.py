"""Which sample comes when, as pure functions of seed, epoch and position; never of worker or rank."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from clipkit.types import ArgumentError

__all__ = ["EpochBatches", "SampleKey", "distinct_order", "epoch_order", "sample_rng"]

Order = NDArray[np.int64]


class SampleKey(NamedTuple):
    """All that decides a sample: which row, at which place of which epoch."""

    epoch: int
    position: int
    row: int


def sample_rng(seed: int, *keys: int) -> np.random.Generator:
    """The random generator that belongs to ``keys``, the same in every process and on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *keys])))


def epoch_order(rows: int, seed: int, epoch: int) -> Order:
    """(rows,) the order of an epoch."""
    return sample_rng(seed, epoch).permutation(rows).astype(np.int64)


def distinct_order(order: Order, concepts: Order, batch: int) -> Order:
    """Rearrange an order so that no batch has a concept twice.

    A row whose concept the batch already has waits for the next one. Rows that fit no full batch are left out of this epoch.

    Args:
        order: (N,) rows.
        concepts: Concept id by row.
        batch: Size of the global batch.

    Returns:
        (M,) rows with M a multiple of ``batch``.
    """
    waiting: deque[int] = deque()
    coming = deque(int(row) for row in order)
    out: list[int] = []
    while len(waiting) + len(coming) >= batch:
        taken, seen = _fill(waiting, coming, concepts, batch)
        if len(taken) < batch:
            break
        out.extend(taken)
    return np.array(out, dtype=np.int64)


def _fill(waiting: deque[int], coming: deque[int], concepts: Order, batch: int) -> tuple[list[int], set[int]]:
    taken: list[int] = []
    seen: set[int] = set()
    kept: deque[int] = deque()
    while len(taken) < batch and (waiting or coming):
        row = waiting.popleft() if waiting else coming.popleft()
        if int(concepts[row]) in seen:
            kept.append(row)
        else:
            seen.add(int(concepts[row]))
            taken.append(row)
    waiting.extendleft(reversed(kept))
    return taken, seen


class EpochBatches(Sampler[list[SampleKey]]):
    """Batch sampler of one rank: global step g takes positions [gG, (g + 1)G) of the epoch's order, whatever the ranks.

    Args:
        rows: Number of rows.
        batch_size: Batch per rank; G is ``batch_size * world_size``.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        concepts: (rows,) concept ids, given to have only distinct ones in each global batch.

    Attributes:
        start: Samples of the epoch already consumed, on all ranks; a resumed epoch begins there.

    Raises:
        ArgumentError: Where an epoch would have no batch.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        concepts: Order | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world_size, self.concepts = rank, world_size, concepts
        self.epoch, self.start = 0, 0
        self._made: tuple[int, Order] | None = None  # of the present epoch
        self.sampler = self  # where Lightning looks for set_epoch
        if len(self) == 0:
            raise ArgumentError("batch_size", _too_large(rows, batch_size, world_size, concepts is not None))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def order(self) -> Order:
        """(N,) rows of the present epoch, in order."""
        if self._made is None or self._made[0] != self.epoch:
            order = epoch_order(self.rows, self.seed, self.epoch)
            if self.concepts is not None:
                order = distinct_order(order, self.concepts, self.batch_size * self.world_size)
            self._made = (self.epoch, order)
        return self._made[1]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """This rank's batches from ``start`` on."""
        order, step = self.order(), self.batch_size * self.world_size
        first = self.start // step * step
        self.start = 0
        for begin in range(first, len(self) * step, step):
            places = range(begin + self.rank * self.batch_size, begin + (self.rank + 1) * self.batch_size)
            yield [SampleKey(self.epoch, place, int(order[place])) for place in places]

    def __len__(self) -> int:
        """Batches of a full epoch, also where this one begins in the middle."""
        return len(self.order()) // (self.batch_size * self.world_size)


def _too_large(rows: int, batch_size: int, world_size: int, distinct: bool) -> str:
    what = "distinct concepts" if distinct else "rows"
    return f"{batch_size} a device on {world_size} is more than the {what} among {rows} rows can fill; make it smaller"
