"""Batches from streams: which source comes when, what becomes of a row, and the state that travels with each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset as TorchDataset

from clipkit.data.collate import Collate
from clipkit.data.filters import Filter, passes
from clipkit.data.hashes import stable_id
from clipkit.data.order import sample_rng
from clipkit.data.reach import Lost
from clipkit.data.samples import Recipe, Sample, SampleMaker
from clipkit.data.sharded import KEY, SOURCE, TOP, Begin, Row, Shards
from clipkit.data.skips import Skipped, TooManyUnusable, skipped
from clipkit.data.windows import Consumer, StreamPlace, Windows
from clipkit.types import ImageTextBatch, InputSpec

__all__ = ["Source", "StreamKey", "StreamOrder", "StreamState", "StreamedBatches"]

MOST_UNUSABLE = 10_000
"""Samples in a row that cannot be used, after which none is expected to be; as many as a large shard has."""
MOST_UNWANTED = 1_000_000
"""Rows in a row that fail the filters, after which none is expected to pass."""


class Source(NamedTuple):
    """One of the streams that are mixed: where it comes from, how often it is drawn, what is made of its rows."""

    shards: Shards
    weight: float
    recipe: Recipe
    filters: Sequence[Filter] = ()


class StreamOrder(NamedTuple):
    """All that the order depends on, beside the sources.

    Attributes:
        seed: Of every draw.
        batch_size: Samples of a batch.
        rank: This process.
        ranks: How many there are.
        workers: Loader processes of each, at least 1; batch b of a rank comes from worker b modulo ``workers``.
        window: Rows that are shuffled together.
        resample: Whether shards are drawn with replacement.
    """

    seed: int
    batch_size: int
    rank: int = 0
    ranks: int = 1
    workers: int = 1
    window: int = 1000
    resample: bool = False


class StreamState(NamedTuple):
    """Where one worker is.

    Attributes:
        places: In each source.
        drawn: Samples used from each source.
        repeated: Samples used that it had used before.
    """

    places: tuple[StreamPlace, ...]
    drawn: tuple[int, ...]
    repeated: int = 0

    @classmethod
    def start(cls, sources: int) -> StreamState:
        """The beginning."""
        return cls((StreamPlace(),) * sources, (0,) * sources)

    @classmethod
    def of(cls, plain: list[Any]) -> StreamState:
        """From what ``plain`` gives."""
        places, drawn, repeated = plain
        return cls(tuple(StreamPlace.of(place) for place in places), tuple(drawn), repeated)

    def plain(self) -> list[Any]:
        """Lists of numbers, for a checkpoint."""
        return [[place.plain() for place in self.places], list(self.drawn), self.repeated]


class StreamKey(NamedTuple):
    """Asks for a batch: its number, and where its worker was before batch ``since`` of the rank."""

    batch: int
    since: int
    state: StreamState


class StreamedBatches(TorchDataset[tuple[ImageTextBatch, StreamState]]):
    """Batches by :class:`StreamKey`, each with its worker's state after it.

    Args:
        sources: The streams; each sample comes from the one that is furthest behind its weight.
        order: What decides the order.
        spec: What the model wants.
    """

    def __init__(self, sources: Sequence[Source], order: StreamOrder, spec: InputSpec) -> None:
        self.sources, self.order, self.collate = sources, order, Collate(spec)
        self.makers = [SampleMaker(source.recipe, spec) for source in sources]
        self._running: dict[int, tuple[int, _Worker]] = {}  # worker to the batch it comes to next

    def __getitem__(self, key: StreamKey) -> tuple[ImageTextBatch, StreamState]:
        """A batch; the same key gives the same one in any process, sooner where the one before was made there.

        Raises:
            TooManyUnusable: Where no row is found that can be used, or shards in a row are out of reach.
        """
        workers = self.order.workers
        number = key.batch % workers
        following, worker = self._running.get(number, (-1, None))
        if worker is None or not key.since <= following <= key.batch:
            following = key.since + (number - key.since) % workers
            worker = _Worker(self, number, key.state)
        for batch in range(following, key.batch + 1, workers):
            samples = worker.batch(batch)
        self._running[number] = (key.batch + workers, worker)
        return self.collate(samples), worker.state


class _Reached(NamedTuple):
    """Shards that end the run where too many in a row are out of reach: each of them takes minutes to be given up."""

    shards: Shards
    lost: Lost

    @property
    def names(self) -> Sequence[str]:
        return self.shards.names

    @property
    def image(self) -> str | None:
        return self.shards.image

    def parts(
        self, shard: int, begin: Begin = TOP, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Begin, list[Row | Skipped]]]:
        for at, items in self.shards.parts(shard, begin, columns):
            self.lost.count(items)
            self.lost.refuse_more()
            yield at, items


class _Worker:
    """Makes the batches of one worker, one after the other."""

    def __init__(self, of: StreamedBatches, number: int, state: StreamState) -> None:
        self.sources, self.makers, self.order, self.state = of.sources, of.makers, of.order, state
        order = of.order
        consumer = Consumer(order.rank * order.workers + number, order.ranks * order.workers)
        self.rows: list[Iterator[tuple[Row | Skipped, StreamPlace]]] = []
        for which, source in enumerate(of.sources):
            columns = [*source.recipe.columns, *(column for column, *_ in source.filters)]
            seed = stable_id(f"{order.seed} {which}")
            shards = _Reached(source.shards, Lost())
            windows = Windows(shards, consumer, seed, order.window, order.resample, columns)
            self.rows.append(windows.read(state.places[which]))

    def batch(self, number: int) -> list[Sample]:
        """Batch ``number`` of the rank."""
        begin = (number * self.order.ranks + self.order.rank) * self.order.batch_size
        return [self._sample(begin + i) for i in range(self.order.batch_size)]

    def _sample(self, position: int) -> Sample:
        which = self._furthest_behind()
        source, rng = self.sources[which], sample_rng(self.order.seed, 0, position)
        left_out: list[Skipped] = []
        for unwanted, (item, place) in enumerate(self.rows[which]):
            if isinstance(item, Skipped):
                left_out.append(item)
            elif passes(item, source.filters):
                try:
                    number = stable_id(f"{item[SOURCE]} {item[KEY]}")
                    sample = self.makers[which].make(item, number, position, rng)
                except Exception as error:  # decoders raise anything
                    left_out.append(skipped(item[SOURCE], item[KEY], error, item.get(source.recipe.image)))
                    rng = sample_rng(self.order.seed, 0, position, len(left_out))
                else:
                    self._count(which, place)
                    return sample._replace(skipped=tuple(left_out))
            if len(left_out) >= MOST_UNUSABLE:
                last = left_out[-1]
                where = f"the last is {last.key} of {last.source}: {last.message}"
                raise TooManyUnusable(f"{len(left_out)} rows in a row cannot be used; {where}")
            if unwanted > MOST_UNWANTED:
                raise TooManyUnusable(f"of {unwanted:,} rows in a row none passes the filters")
        raise AssertionError("a stream has no end")

    def _furthest_behind(self) -> int:
        drawn = self.state.drawn
        return max(range(len(drawn)), key=lambda i: self.sources[i].weight * (sum(drawn) + 1) - drawn[i])

    def _count(self, which: int, place: StreamPlace) -> None:
        places, drawn = list(self.state.places), list(self.state.drawn)
        places[which], drawn[which] = place, drawn[which] + 1
        repeated = self.state.repeated + (place.turn > 0)
        self.state = StreamState(tuple(places), tuple(drawn), repeated)
