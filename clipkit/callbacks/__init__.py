"""What may watch and steer a training run, one callback a file."""

from __future__ import annotations

from clipkit.callbacks.evaluate import EvaluateTasks
from clipkit.callbacks.health import Health, NonFiniteLoss
from clipkit.callbacks.interrupt import Interrupt, RunInterrupted
from clipkit.callbacks.position import SamplePosition
from clipkit.callbacks.progress import TrainingProgress
from clipkit.callbacks.random_state import RandomState
from clipkit.callbacks.retrieval import ValidationRetrieval
from clipkit.callbacks.running_statistics import RunningStatistics

__all__ = [
    "EvaluateTasks",
    "Health",
    "Interrupt",
    "NonFiniteLoss",
    "RandomState",
    "RunInterrupted",
    "RunningStatistics",
    "SamplePosition",
    "TrainingProgress",
    "ValidationRetrieval",
]
