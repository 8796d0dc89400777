"""What trains and how fast."""

from __future__ import annotations

from clipkit.optim.layout import keep_layout
from clipkit.optim.parameter_groups import Trainable, parameter_groups, set_trainable
from clipkit.optim.schedules import Schedule, warmup_factor

__all__ = ["Schedule", "Trainable", "keep_layout", "parameter_groups", "set_trainable", "warmup_factor"]
