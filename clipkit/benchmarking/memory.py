"""How much memory a training step takes, from steps of 2 and 4 samples."""

from __future__ import annotations

import difflib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipkit.tasks.micro_batches import in_micro_batches
from clipkit.types import ImageTextBatch

__all__ = ["MemoryCurve", "MemoryEstimate", "estimate_memory", "memory_curve", "peak_memory"]

MOST_PAIRS = 1024
"""The objective is measured up to this batch; of a larger one two sizes beyond tell how it grows."""


class MemoryCurve(NamedTuple):
    """Memory over a step.

    Attributes:
        held: (N,) most bytes held during each operator.
        names: The N operators.
    """

    held: NDArray[np.int64]
    names: list[str]


class MemoryEstimate(NamedTuple):
    """Bytes of one training step on one device.

    Attributes:
        weights: Parameters and buffers.
        optimizer: AdamW's two moments, of what trains.
        step: Activations and gradients of the towers at their common peak, at ``batch_size``.
        objective: The loss, at ``batch_size``.
        batch_size: The batch that was asked for.
    """

    weights: int
    optimizer: int
    step: int
    objective: int
    batch_size: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.optimizer + self.step + self.objective


def estimate_memory(task: pl.LightningModule, batch: ImageTextBatch, batch_size: int) -> MemoryEstimate:
    """Estimate the peak of a training step without ever making the whole batch.

    Every moment of a step holds some bytes a sample and some whatever the batch; steps of 2 and 4 samples tell both,
    moment by moment, and the peak is that of the line at ``batch_size``, or at the task's ``micro_batch_size``. The
    loss, which may grow with the square of the batch, is measured on embeddings alone.

    Args:
        task: A task with ``model`` and ``objective``, on the device that will train.
        batch: At least 4 samples on the same device.
        batch_size: The batch to estimate for.

    Returns:
        The parts and their sum, in bytes.
    """
    trained = [p for p in task.parameters() if p.requires_grad]
    held = sum(t.numel() * t.element_size() for t in (*task.parameters(), *task.buffers()))
    moments = sum(2 * p.numel() * p.element_size() for p in trained)
    at_once = min(batch_size, getattr(task, "micro_batch_size", None) or batch_size)
    step_of = partial(_step_in_two if at_once < batch_size else _step, task)
    two, four = (memory_curve(partial(step_of, batch.first(n))) for n in (2, 4))
    with torch.no_grad():
        outputs = task.model(batch.first(2))  # type: ignore[operator]  # a task's model
    kept = 2 * sum(_bytes_a_row(value) for value in outputs)  # embeddings of the whole batch, and their gradients
    step = _peak_at(two, four, at_once) + max(0, batch_size - 2 * at_once) * kept
    return MemoryEstimate(held, moments, step, _objective(task, outputs, batch, batch_size), batch_size)


def peak_memory(step: Callable[[], object]) -> int:
    """Most bytes of tensors that ``step`` holds at once, above what is held before it."""
    return int(memory_curve(step).held.max())


def memory_curve(step: Callable[[], object]) -> MemoryCurve:
    """Most bytes held above the start during each operator of ``step``, from PyTorch's own record of allocations.

    By operator and not by allocation, since a kernel may take scratch memory more often for one batch than for another.
    """
    step()  # once before: kernels that are chosen or compiled at the first call take memory of their own
    gc.collect()
    with _without_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    results: Any = profile.profiler.kineto_results  # there once the profile has ended
    device = "CUDA" if torch.cuda.is_available() else "CPU"
    held, curve, names = 0, [0], [""]
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() != "[memory]":
            curve.append(held)
            names.append(event.name())
        elif event.device_type().name == device:
            held += event.nbytes()
            curve[-1] = max(curve[-1], held)
    return MemoryCurve(np.array(curve, dtype=np.int64), names)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The profiler tells of its start and end there, past Python and any setting."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _peak_at(two: MemoryCurve, four: MemoryCurve, batch_size: int) -> int:
    pairs = [(i, i) for i in range(len(two.names))]
    if two.names != four.names:  # another kernel for another batch: go by the operators that both have
        matched = difflib.SequenceMatcher(None, two.names, four.names, autojunk=False).get_matching_blocks()
        pairs = [(block.a + i, block.b + i) for block in matched for i in range(block.size)]
    first, second = np.array(pairs).T
    sample = (four.held[second] - two.held[first]) / 2
    return int((two.held[first] + sample * (batch_size - 2)).max())


def _step(task: pl.LightningModule, batch: ImageTextBatch) -> None:
    outputs = task.model(batch)  # type: ignore[operator]  # a task's model
    task.objective(outputs, batch).loss.backward()  # type: ignore[operator]  # a task's objective
    for parameter in task.parameters():
        parameter.grad = None


def _step_in_two(task: pl.LightningModule, batch: ImageTextBatch) -> None:
    """Of twice the batch in two micro-batches: beside the second one's activations are the first one's gradients."""
    image, tokens, mask, concept, position = (torch.cat([column, column]) for column in batch[:5])
    twice = ImageTextBatch(image, tokens, mask, concept, position, {})
    outputs = in_micro_batches(task.model, twice, len(batch.image))  # type: ignore[arg-type]  # a task's model
    task.objective(outputs, twice).loss.backward()  # type: ignore[operator]  # a task's objective
    for parameter in task.parameters():
        parameter.grad = None


def _objective(task: pl.LightningModule, outputs: Any, batch: ImageTextBatch, batch_size: int) -> int:
    if batch_size <= MOST_PAIRS:
        return _objective_at(task, outputs, batch, batch_size)
    less, more = 5 * MOST_PAIRS // 2, 4 * MOST_PAIRS
    first, second = (_objective_at(task, outputs, batch, rows) for rows in (less, more))
    power = 2 if second > first * (more / less) ** 1.5 else 1  # of a loss that is not clipkit's own
    slope = (second - first) / (more**power - less**power)
    return int(second + max(0.0, slope) * (batch_size**power - more**power))


def _objective_at(task: pl.LightningModule, outputs: Any, batch: ImageTextBatch, rows: int) -> int:
    index = torch.arange(rows, device=batch.image.device) % 2

    def step() -> None:
        large = type(outputs)(*(_grown(value, index) for value in outputs))
        ids = torch.arange(rows, device=index.device)
        # Uncompiled: a graph holds all strips of batches of these sizes, and none of those of a large one.
        task.objective.forward(large, batch._replace(concept=ids, position=ids)).loss.backward()  # type: ignore[union-attr]  # a task's part

    return peak_memory(step)


def _bytes_a_row(value: object) -> int:
    by_row = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 2
    return value[0].numel() * value.element_size() if isinstance(value, Tensor) and by_row else 0


def _grown(value: object, index: Tensor) -> object:
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == 2:
        return value.detach()[index].requires_grad_(value.is_floating_point())
    return value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
