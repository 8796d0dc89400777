"""Where a batch stands in its optimiser step, and which steps are logged."""

from __future__ import annotations

from typing import Any

__all__ = ["begins_step", "ends_step", "is_logged", "log_every"]


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


def is_logged(trainer: Any, step: int) -> bool:
    """Whether a step's figures are for the loggers.

    Args:
        trainer: Lightning's.
        step: Optimiser steps taken with it, from 1: ``global_step`` once it is taken, one more before.
    """
    return step % log_every(trainer) == 0


def log_every(trainer: Any) -> int:
    """Steps from one that is logged to the next, at least 1; Lightning's 0 is for a run that has no logger."""
    return max(1, int(trainer.log_every_n_steps))
