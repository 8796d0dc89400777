"""Training on rows that can be read by index."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from clipkit.data.collate import CaptionedImages, Collate
from clipkit.data.hashes import fingerprint
from clipkit.data.loader import Loader
from clipkit.data.mixture import Mixture, mixed_order
from clipkit.data.order import EpochBatches, Place
from clipkit.data.samples import Recipe, SampleMaker
from clipkit.distributed import rank
from clipkit.types import InputSpec

__all__ = ["IndexedTraining"]


class IndexedTraining:
    """The order of an epoch is a pure function of seed and epoch, whatever the ranks and workers.

    Args:
        rows: The data.
        recipe: How samples are made of the rows.
        batch_size: Images per device and step.
        seed: Seed of order, captions and augmentation.
        concepts: (N,) given to have only distinct ones in each global batch.
        mixture: Given to draw from several sources by weight.
        lengths: (N,) of captions, given to have about equal ones in each step.

    Attributes:
        place: What the optimiser has consumed, over all ranks.

    Raises:
        ArgumentError: Where an epoch would have no batch.
    """

    def __init__(
        self,
        rows: Dataset,
        recipe: Recipe,
        batch_size: int,
        seed: int,
        concepts: NDArray[np.int64] | None = None,
        mixture: Mixture | None = None,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        self.rows, self.recipe, self.batch_size, self.seed = rows, recipe, batch_size, seed
        self.concepts, self.mixture, self.lengths = concepts, mixture, lengths
        self.place = Place()
        self.batches = self._order(0, 1, 1, self._reached)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell this data from other data."""
        return fingerprint(self.rows)

    def begin(self) -> None:
        """Begin another run."""
        self.place = Place()

    def loader(self, spec: InputSpec, workers: int, ranks: tuple[int, int], accumulated: int, fixed: bool) -> Loader:
        """An epoch's worth of batches, from the place that is reached.

        Args:
            spec: What the model wants.
            workers: Loader processes.
            ranks: This rank, and how many there are.
            accumulated: Batches that make up one optimiser step.
            fixed: Whether each epoch has the same few batches.
        """
        start = (lambda: Place(1)) if fixed else self._reached
        self.batches = self._order(*ranks, accumulated, start)
        samples = CaptionedImages(self.rows, SampleMaker(self.recipe, spec), self.seed)
        return Loader(samples, workers, persistent=True, batch_sampler=self.batches, collate_fn=Collate(spec))

    def advance(self, batches: int) -> None:
        """Count global batches that the optimiser has consumed."""
        self.place = self.batches.after(self.place, batches)

    def state(self) -> dict[str, Any]:
        """Where in which data the optimiser is."""
        return {**self.place._asdict(), **self._data()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there; within an epoch of other data there is no going on, so it begins anew, with a warning."""
        self.place = Place(state["epoch"], state["position"])
        changed = [name for name, value in self._data().items() if state.get(name) != value]
        if self.place.position and changed:
            self.place = Place(self.place.epoch)
            what = ", ".join(changed)
            rank_zero_warn(f"the checkpoint stands within an epoch of other data ({what} differs): it begins anew")

    def figures(self) -> dict[str, float]:
        """Samples drawn from each source of a weighted mixture, counted by rank 0 for all."""
        if self.mixture is None:
            return {}
        group = self.mixture.group[self.batches.order(self.place.epoch)[: self.batches.samples]]
        sources = len(self.mixture.names)
        now, whole = np.bincount(group[: self.place.position], minlength=sources), np.bincount(group, minlength=sources)
        drawn = (now + self.place.epoch * whole) * (rank() == 0)
        return dict(zip(self.mixture.metrics, drawn.tolist(), strict=True))

    def _data(self) -> dict[str, Any]:
        shares = None if self.mixture is None else list(self.mixture.shares)
        distinct = self.concepts is not None
        order = {"distinct_concepts": distinct, "weights": shares, "by_length": self.lengths is not None}
        return {"data": self.fingerprint, "seed": self.seed, **order}

    def _reached(self) -> Place:
        return self.place

    def _order(self, number: int, ranks: int, accumulated: int, start: Callable[[], Place]) -> EpochBatches:
        mixture = self.mixture
        order = None if mixture is None else lambda epoch: mixed_order(mixture, self.seed, epoch)
        sizes, how = (len(self.rows), self.batch_size, self.seed, number, ranks), (accumulated, order, self.lengths)
        return EpochBatches(*sizes, self.concepts, start, *how)
