"""Which sample comes when, as pure functions of seed, epoch and position; never of worker or rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from clipkit.data.buckets import bucketed_order
from clipkit.types import ArgumentError

__all__ = ["EpochBatches", "Place", "SampleKey", "distinct_batches", "distinct_order", "epoch_order", "sample_rng"]

Order = NDArray[np.int64]


class SampleKey(NamedTuple):
    """All that decides a sample: which row, at which place of which epoch."""

    epoch: int
    position: int
    row: int


class Place(NamedTuple):
    """A place in the stream of epochs: ``position`` samples of ``epoch`` are consumed, over all ranks."""

    epoch: int = 0
    position: int = 0


class _Key(np.random.bit_generator.ISeedSequence):
    """Hands a hash to Philox as its key; numpy's own seed sequence takes three times as long."""

    def __init__(self, seed: int, keys: tuple[int, ...]) -> None:
        digest = hashlib.blake2b(f"{seed} {keys}".encode(), digest_size=16).digest()
        self.key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> Any:
        return self.key


def sample_rng(seed: int, *keys: int) -> np.random.Generator:
    """The random generator that belongs to ``keys``, the same in every process and on every machine."""
    return np.random.Generator(np.random.Philox(_Key(seed, keys)))  # type: ignore[arg-type]  # any ISeedSequence


def epoch_order(rows: int, seed: int, epoch: int) -> Order:
    """(rows,) the order of an epoch."""
    return sample_rng(seed, epoch).permutation(rows).astype(np.int64)


def distinct_batches(concepts: Order, batch: int) -> int:
    """The most batches of ``batch`` rows that can be made with no concept twice in any, each row used once at most."""
    counts = np.unique(concepts, return_counts=True)[1]
    batches = len(concepts) // batch
    while batches > (fewer := int(np.minimum(counts, batches).sum()) // batch):
        batches = fewer  # a concept can be in each of them once
    return batches


def distinct_order(order: Order, concepts: Order, batch: int) -> Order:
    """Rearrange an order so that no batch has a concept twice.

    As many batches as there can be; the rows left out are those last in the order, of a concept with more rows than
    there are batches, and of the whole. Dealing the rows out in turn, concept by concept, parts the rows of each.

    Args:
        order: (N,) rows.
        concepts: Concept id by row.
        batch: Size of the global batch.

    Returns:
        (M,) rows, M the same multiple of ``batch`` for every order.
    """
    batches = distinct_batches(concepts, batch)
    if batches == 0:
        return order[:0]
    places = np.flatnonzero(_occurrence(concepts[order]) < batches)[: batches * batch]
    _, first, concept = np.unique(concepts[order[places]], return_index=True, return_inverse=True)
    dealt = places[np.argsort(first[concept], kind="stable")].reshape(batch, batches)
    return order[np.sort(dealt.T, axis=1).ravel()]


def _occurrence(values: Order) -> Order:
    """(N,) how often each value stood before."""
    by_value = np.argsort(values, kind="stable")
    ordered = values[by_value]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(values)])
    out = np.empty(len(values), dtype=np.int64)
    out[by_value] = np.arange(len(values)) - np.repeat(starts, lengths)
    return out


class EpochBatches(Sampler[list[SampleKey]]):
    """Batch sampler of one rank: each global step takes the next G positions of the epoch's order, whatever the ranks.

    Epochs follow one another in a stream. An iteration gives one epoch's worth of batches from ``start()`` on, running
    over into the next epoch where it began in the middle of one, so a trainer that has consumed part of an epoch finds
    the rest of it, and one whose own count of epochs differs finds no gap.

    Args:
        rows: Number of rows.
        batch_size: Batch per rank; G is ``batch_size * world_size``.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        concepts: (rows,) concept ids, given to have only distinct ones in each global batch.
        start: Where iterations begin, asked at the first batch of each. While it is the very beginning, since nobody
            counts, the epoch is the one that ``set_epoch`` says.
        accumulated: Batches that make up one optimiser step; an epoch is a whole number of steps.
        order: Epoch to the (rows,) order of its rows; None for a permutation.
        lengths: (rows,) lengths of captions, given to have about equal ones in each optimiser step.

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
        start: Callable[[], Place] = Place,
        accumulated: int = 1,
        order: Callable[[int], Order] | None = None,
        lengths: Order | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.step, self.concepts, self.start = rank, batch_size * world_size, concepts, start
        self.lengths, self.accumulated = lengths, accumulated
        self._epoch_order = order or (lambda epoch: epoch_order(rows, seed, epoch))
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch
        batches = rows // self.step if concepts is None else distinct_batches(concepts, self.step)
        self._batches = batches - batches % accumulated
        self._made: tuple[int, Order] | None = None  # of the latest epoch
        if self._batches == 0:
            raise ArgumentError("batch_size", _too_large(rows, batch_size, world_size, concepts, accumulated))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next, where nobody counts samples."""
        self.epoch = epoch

    def order(self, epoch: int) -> Order:
        """(N,) rows of an epoch, in order."""
        if self._made is None or self._made[0] != epoch:
            order = self._epoch_order(epoch)
            if self.concepts is not None:
                order = distinct_order(order, self.concepts, self.step)
            if self.lengths is not None:
                step, rng = self.step * self.accumulated, sample_rng(self.seed, epoch, 0, 0, 1)
                order = bucketed_order(order, self.lengths, step, rng)
            self._made = (epoch, order)
        return self._made[1]

    def after(self, place: Place, batches: int) -> Place:
        """Where the stream is when that many more global batches are consumed."""
        place = self._begin(place)
        for _ in range(batches):
            place = self._fit(Place(place.epoch, place.position + self.step))
        return place

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """This rank's share of ``len`` global batches."""
        place = self._begin(self.start())
        for _ in range(len(self)):
            begin = place.position + self.rank * self.batch_size
            rows = self.order(place.epoch)[begin : begin + self.batch_size].tolist()
            yield [SampleKey(place.epoch, begin + i, row) for i, row in enumerate(rows)]
            place = self.after(place, 1)

    def __len__(self) -> int:
        """Batches of a full epoch, also where this one begins in the middle."""
        return self._batches

    @property
    def samples(self) -> int:
        """Positions of a full epoch, over all ranks."""
        return self._batches * self.step

    def _begin(self, place: Place) -> Place:
        return Place(self.epoch) if place == Place() else self._fit(place)

    def _fit(self, place: Place) -> Place:
        """The place itself, or the next epoch where no batch is left in this one."""
        return place if place.position + self.step <= self.samples else Place(place.epoch + 1)


def _too_large(rows: int, batch_size: int, world_size: int, concepts: Order | None, accumulated: int) -> str:
    batch = f"{batch_size}" if world_size == 1 else f"{batch_size} on each of {world_size} devices"
    batch += "" if accumulated == 1 else f", {accumulated} times a step,"
    if concepts is None:
        return f"{batch} is more than the {rows} training rows; make it smaller"
    return f"{batch} is more than the {len(np.unique(concepts))} distinct concepts; make it smaller"
