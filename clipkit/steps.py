"""Where a batch stands in its optimiser step, and which steps are logged."""

from __future__ import annotations

from typing import Any

__all__ = ["begins_step", "ends_step", "log_every"]


def begins_step(trainer: Any, batch_idx: int) -> bool:
    """Whether a batch is the first of those that an optimiser step is made of.

    Args:
        trainer: Lightning's.
        batch_idx: Of the batch in its epoch, from 0.
    """
    return bool(batch_idx % trainer.accumulate_grad_batches == 0)


def ends_step(trainer: Any, batch_idx: int) -> bool:
    """Whether it is the last of them; that of an epoch is, however few there were.

    Args:
        trainer: Lightning's.
        batch_idx: Of the batch in its epoch, from 0.
    """
    return bool((batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch)


def log_every(trainer: Any) -> int:
    """Steps from one that is logged to the next, at least 1; Lightning's 0 is for a run that has no logger."""
    return max(1, int(trainer.log_every_n_steps))
