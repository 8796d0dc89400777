"""The order of a stream: shards dealt to the loaders, then windows that are shuffled and can be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from clipkit.data.hashes import stable_id
from clipkit.data.order import sample_rng
from clipkit.data.sharded import KEY, SOURCE, TOP, Begin, Row, Shards, row_bytes
from clipkit.data.skips import Skipped, TooManyUnusable

__all__ = ["Consumer", "StreamPlace", "Windows"]


MOST_BYTES = 256 << 20
"""Of the images and texts of a window; one that holds as much is closed before it has all its rows."""


class Consumer(NamedTuple):
    """One of several loaders that share a stream: number ``number`` of ``loaders``, over all ranks and workers."""

    number: int = 0
    loaders: int = 1


class StreamPlace(NamedTuple):
    """Where a loader is in its part of a stream.

    Attributes:
        turn: How often it has been through its shards.
        shard: Place in the order of its shards where the present window begins.
        begin: Where in that shard.
        window: Number of the window in this turn.
        used: How much of the window is used up.
        borrowed: 1 where its own shards hold nothing, and it reads those of all.
    """

    turn: int = 0
    shard: int = 0
    begin: Begin = TOP
    window: int = 0
    used: int = 0
    borrowed: int = 0

    @classmethod
    def of(cls, plain: list[Any]) -> StreamPlace:
        """From what ``plain`` gives."""
        return cls(*plain)._replace(begin=Begin(*plain[cls._fields.index("begin")]))

    def plain(self) -> list[Any]:
        """Numbers, and a list of such for ``begin``: for a checkpoint."""
        return [list(value) if isinstance(value, Begin) else value for value in self]


ALONE, START = Consumer(), StreamPlace()


class Windows:
    """One loader's endless way through a stream.

    Each loader has shards of its own, and every shard has one loader; where there are fewer shards than loaders, those
    of one shard share its rows by a hash of their keys. A turn takes the loader's shards in an order of its own, reads
    ``window`` rows at a time and shuffles each window. All is a pure function of seed, loader and place, so that going
    on from a place reads one window again at most, and loses and repeats nothing.

    Args:
        shards: The stream.
        consumer: Which loader.
        seed: Seed of the order.
        window: Rows that are shuffled together.
        resample: Draw shards with replacement from all of them, which makes up no whole turns.
        columns: Those of a row that are wanted; None for all.
    """

    def __init__(
        self,
        shards: Shards,
        consumer: Consumer = ALONE,
        seed: int = 0,
        window: int = 1000,
        resample: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.shards, self.consumer, self.seed, self.window = shards, consumer, seed, window
        self.resample, self.columns = resample, columns
        shard_count, (index, loaders) = len(shards.names), consumer
        dealt = sample_rng(seed).permutation(shard_count).tolist()
        self.own = dealt[index::loaders] or [dealt[index % shard_count]]
        sharing = range(index % shard_count, loaders, shard_count) if shard_count < loaders else range(1)
        self.share = Consumer(index // shard_count if len(sharing) > 1 else 0, len(sharing))

    def read(self, place: StreamPlace = START) -> Iterator[tuple[Row | Skipped, StreamPlace]]:
        """Rows from a place on, without an end, each with the place after it; what was left out stands among them.

        Raises:
            TooManyUnusable: Where no shard holds anything.
        """
        while True:
            found = place != StreamPlace(place.turn, borrowed=place.borrowed)  # else nobody knows yet
            for begin, items in self._windows(place):
                order = self._rng(begin.turn, begin.window).permutation(len(items)).tolist()
                for used in range(begin.used, len(items)):
                    yield items[order[used]], begin._replace(used=used + 1)
                found = found or any(not isinstance(item, Skipped) for item in items)
            if not found and (place.borrowed or (self.resample and place.turn >= len(self.shards.names))):
                raise TooManyUnusable(
                    f"no sample in any of {len(self.shards.names)} shards, {self.shards.names[0]} first"
                )
            place = StreamPlace(place.turn + 1, borrowed=place.borrowed if found else 1)

    def order(self, turn: int, borrowed: int = 0) -> list[int]:
        """The shards of a turn, in order."""
        everything = range(len(self.shards.names))
        if self.resample:
            return [int(shard) for shard in self._rng(turn).choice(everything, len(self.own))]
        return [int(shard) for shard in self._rng(turn).permutation(everything if borrowed else self.own)]

    def _rng(self, *keys: int) -> np.random.Generator:
        return sample_rng(self.seed, *self.consumer, *keys)

    def _windows(self, place: StreamPlace) -> Iterator[tuple[StreamPlace, list[Row | Skipped]]]:
        """The rest of a turn: where each window begins, and what is in it."""
        window: list[Row | Skipped] = []
        keys: set[tuple[str, str]] = set()
        begin, number, size = place, count(place.window + 1), 0
        for shard, at, items in self._parts(place):
            if len(window) >= self.window or size >= MOST_BYTES:
                yield begin, window
                begin, window = place._replace(shard=shard, begin=at, window=next(number), used=0), []
                keys, size = set(), 0
            window += [_unless_seen(item, keys) for item in items if self._is_mine(item, place.borrowed)]
            size += sum(row_bytes(item) for item in items if not isinstance(item, Skipped))
        if window:
            yield begin, window

    def _parts(self, place: StreamPlace) -> Iterator[tuple[int, Begin, list[Row | Skipped]]]:
        order = self.order(place.turn, place.borrowed)
        for number in range(place.shard, len(order)):
            begin = place.begin if number == place.shard else TOP
            for at, items in self.shards.parts(order[number], begin, self.columns):
                yield number, at, items

    def _is_mine(self, item: Row | Skipped, borrowed: int) -> bool:
        if self.share.loaders == 1 or borrowed or self.resample:
            return True
        key = item.key if isinstance(item, Skipped) else item[KEY]
        return stable_id(key) % self.share.loaders == self.share.number


def _unless_seen(item: Row | Skipped, keys: set[tuple[str, str]]) -> Row | Skipped:
    """The item, or the news that a row of its name stands in the window already."""
    if isinstance(item, Skipped):
        return item
    key = (item[SOURCE], item[KEY])
    if key in keys:
        return Skipped(*key, "duplicate_key", "its shard has a sample of that key already", None)
    keys.add(key)
    return item
