"""Learning-rate schedules as factors of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from clipkit.types import ArgumentError

__all__ = ["Schedule", "warmup_factor"]

Schedule = Literal["cosine", "constant"]


def warmup_factor(schedule: Schedule, warmup: int, total: int) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to zero or a constant (CLIP, arXiv 2103.00020, section 2.5).

    Args:
        schedule: ``cosine`` or ``constant``.
        warmup: Steps of warm-up; the first has factor 1 / warmup.
        total: Steps in all, for the cosine.

    Returns:
        Step, from 0, to the factor on the learning rate.

    Raises:
        ArgumentError: For another schedule, or fewer than no steps of warm-up.
    """
    if schedule not in get_args(Schedule):
        raise ArgumentError("schedule", f"{schedule!r} is not one of {', '.join(get_args(Schedule))}")
    if warmup < 0:
        raise ArgumentError("warmup", f"{warmup} is less than 0")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if schedule == "constant":
            return 1.0
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor
