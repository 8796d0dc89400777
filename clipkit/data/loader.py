"""The loader of both sides, and how its workers bear signals."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from clipkit.types import ImageTextBatch

__all__ = ["Loader"]

_running: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Iterators with workers, and whose they are; a fork has those of its parent here, too."""


class Loader(DataLoader[ImageTextBatch]):
    """A loader that asks its sampler at the first batch, not when Lightning makes the iterator.

    Lightning makes it before it names the epoch and, where a strategy restores late (FSDP), before it restores the
    place; workers would by then have begun with the wrong samples (lightning 21938, 20550).

    Args:
        samples: What the workers read from.
        workers: Loader processes.
        persistent: Whether they live on from epoch to epoch.
        options: Of torch's loader.
    """

    def __init__(self, samples: TorchDataset[Any], workers: int, persistent: bool, **options: Any) -> None:
        if workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are the parallelism
        super().__init__(
            samples,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it draws from torch's own, which a checkpoint restores
            persistent_workers=workers > 0 and persistent,
            worker_init_fn=_outlive_a_signal,
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # all that the base class promises
        iterator = super().__iter__()
        if self.num_workers:
            if os.getpid() not in _running.values():
                Finalize(None, _end_workers, exitpriority=100)  # a forked process ends without what atexit knows
            _running[iterator] = os.getpid()
        yield from iterator

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the place. Without this Lightning warns that the loader cannot resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""


def _outlive_a_signal(worker: int) -> None:
    """Leave Ctrl-C, SLURM's warning and the first SIGTERM, which a whole group gets, to the process that trains."""
    for asking in (signal.SIGINT, signal.SIGUSR1):  # it needs batches until its step is done
        signal.signal(asking, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _end_workers() -> None:
    """End the workers that are left: Python would by the one signal that they outlive, and wait for them for ever."""
    for iterator in [iterator for iterator, process in _running.items() if process == os.getpid()]:
        iterator._shutdown_workers()


atexit.register(_end_workers)  # after torch's own, so that it comes before it
