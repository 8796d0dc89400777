"""Training on streams: what is read ahead, what is consumed, and how a run goes on with the next sample."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import Sampler

from clipkit.data.loader import Loader
from clipkit.data.mixture import metric_names
from clipkit.data.order import Place
from clipkit.data.remote import public_name
from clipkit.data.samples import Recipe
from clipkit.data.streamed import Source, StreamedBatches, StreamKey, StreamOrder, StreamState
from clipkit.distributed import gather_objects, rank, world_size
from clipkit.types import ArgumentError, ImageTextBatch, InputSpec

__all__ = ["StreamedTraining"]


class StreamedTraining:
    """Each worker of each rank reads its own shards, and a checkpoint holds where each of them is.

    An epoch is so many steps; it is no turn through the data. A loader that comes to the end of its shards goes through
    them again in another order, so that ranks stay equal; how many samples come again is counted.

    Args:
        sources: Name to the stream, its weight and what is made of it.
        order: What decides the order.
        steps: Optimiser steps that make an epoch.

    Attributes:
        consumed: Batches that the optimiser has consumed, on each rank.
        ahead: Worker states of batches that are made and not yet consumed, in order.
    """

    def __init__(self, sources: dict[str, Source], order: StreamOrder, steps: int) -> None:
        self.sources, self.order, self.steps = sources, order, steps
        self.consumed = 0
        self.states: dict[int, StreamState] = {}
        self.ahead: deque[StreamState] = deque()
        self._loaded: dict[str, Any] | None = None

    @property
    def place(self) -> Place:
        """Samples consumed over the whole run; a stream has no epochs of its own."""
        return Place(0, self.consumed * self.order.batch_size * self.order.ranks)

    @property
    def recipe(self) -> Recipe:
        """How samples are made of the first source's rows."""
        return next(iter(self.sources.values())).recipe

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the names of all shards."""
        digest = hashlib.sha256()
        for source in self.sources.values():
            names = "\n".join([f"{source.weight:.9g}", *map(public_name, source.shards.names)])
            digest.update(names.encode(errors="surrogatepass"))  # of files whose names are no UTF-8
        return digest.hexdigest()[:16]

    def begin(self) -> None:
        """Begin another run."""
        self.consumed, self.states, self._loaded = 0, {}, None

    def loader(self, spec: InputSpec, workers: int, ranks: tuple[int, int], accumulated: int, fixed: bool) -> Loader:
        """An epoch's worth of batches, from the place that is reached; see ``IndexedTraining``."""
        self.order = self.order._replace(rank=ranks[0], ranks=ranks[1], workers=max(1, workers))
        self._go_on()
        samples = StreamedBatches(list(self.sources.values()), self.order, spec)
        return _StreamLoader(self, samples, workers, self.steps * accumulated, fixed)

    def advance(self, batches: int) -> None:
        """Count batches of each rank that the optimiser has consumed."""
        for _ in range(batches):
            self.states[self.consumed % self.order.workers] = self.ahead.popleft()
            self.consumed += 1

    def state(self) -> dict[str, Any]:
        """Where each worker of each rank is; every rank must ask."""
        own = {worker: state.plain() for worker, state in self.states.items()}
        topology = {"ranks": world_size(), "workers": self.order.workers}
        order = {"seed": self.order.seed, "window": self.order.window, "resample": self.order.resample}
        where = {**self.place._asdict(), "consumed": self.consumed, "streams": gather_objects(own)}
        return {**where, "data": self.fingerprint, "order": order, "topology": topology}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there; with other data the stream begins anew, and a warning says so.

        Raises:
            ArgumentError: For ``window``, ``seed`` or ``resample``, where it differs.
        """
        if "streams" not in state or state["data"] != self.fingerprint:
            rank_zero_warn("the checkpoint is of other shards or weights: the stream begins anew")
            return
        for name, value in state["order"].items():
            if getattr(self.order, name) != value:
                now = getattr(self.order, name)
                raise ArgumentError(
                    name, f"the checkpoint's stream was read with {value!r}, so it cannot go on with {now!r}"
                )
        self._loaded = state
        self._go_on()

    def figures(self) -> dict[str, float]:
        """Samples that came again, and those from each source, on this rank."""
        states = self.states.values()
        drawn = [sum(state.drawn[which] for state in states) for which in range(len(self.sources))]
        shares = dict(zip(metric_names(list(self.sources)), drawn, strict=True))
        return {"data/repeated": sum(state.repeated for state in states), **(shares if len(shares) > 1 else {})}

    def state_of(self, worker: int) -> StreamState:
        """Where a worker of this rank is."""
        return self.states.get(worker, StreamState.start(len(self.sources)))

    def _go_on(self) -> None:
        """Take this rank's part of what was loaded; ranks and workers are known only when a loader is made."""
        if self._loaded is None:
            return
        topology = {"ranks": world_size(), "workers": self.order.workers}
        if topology != self._loaded["topology"]:
            then = " x ".join(f"{count} {name}" for name, count in self._loaded["topology"].items())
            now = " x ".join(f"{count} {name}" for name, count in topology.items())
            why = "each has shards and a place of its own"
            raise ArgumentError(
                "workers", f"the checkpoint's stream was read by {then}, so it cannot go on with {now}: {why}"
            )
        own = self._loaded["streams"][rank()]
        self.states = {int(worker): StreamState.of(plain) for worker, plain in own.items()}
        self.consumed = self._loaded["consumed"]
        self._loaded = None


class _StreamKeys(Sampler[StreamKey]):
    """An epoch's worth of batches from what is consumed when the first is asked for."""

    def __init__(self, training: StreamedTraining, batches: int, fixed: bool) -> None:
        self.training, self.batches, self.fixed = training, batches, fixed

    def __iter__(self) -> Iterator[StreamKey]:
        workers = range(self.training.order.workers)
        begin, states = 0, [StreamState.start(len(self.training.sources)) for _ in workers]
        if not self.fixed:  # all at once: while batches are read ahead, training advances
            begin, states = self.training.consumed, [self.training.state_of(worker) for worker in workers]
        for batch in range(begin, begin + self.batches):
            yield StreamKey(batch, begin, states[batch % len(workers)])

    def __len__(self) -> int:
        return self.batches


class _StreamLoader(Loader):
    """Takes the state off each batch, and keeps it until the optimiser has consumed the batch."""

    def __init__(
        self, training: StreamedTraining, samples: StreamedBatches, workers: int, batches: int, fixed: bool
    ) -> None:
        self.training = training
        keys = _StreamKeys(training, batches, fixed)
        super().__init__(samples, workers, persistent=True, batch_size=None, sampler=keys)

    def __iter__(self) -> Iterator[ImageTextBatch]:  # type: ignore[override]  # all that the base class promises
        self.training.ahead.clear()
        for batch, state in super().__iter__():
            self.training.ahead.append(state)
            yield batch
