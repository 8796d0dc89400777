"""What clipkit measures of itself and of a user's own experiment."""

from __future__ import annotations

from clipkit.benchmarking.batch import measure_batch
from clipkit.benchmarking.comparison import Rival, compare
from clipkit.benchmarking.data import Subject, measure_stages, subject
from clipkit.benchmarking.loss import LOSSES, measure_losses
from clipkit.benchmarking.memory import MemoryEstimate, estimate_memory, peak_memory
from clipkit.benchmarking.open_clip import OpenClip
from clipkit.benchmarking.open_clip_loop import accumulated_step, time_no_model
from clipkit.benchmarking.overhead import measure_loading, measure_loops, measure_start
from clipkit.benchmarking.pictures import photograph_files
from clipkit.benchmarking.rows import Row, as_json
from clipkit.benchmarking.step import ARCHITECTURES, PRECISIONS, largest_batch, measure_steps

__all__ = [
    "ARCHITECTURES",
    "LOSSES",
    "PRECISIONS",
    "MemoryEstimate",
    "OpenClip",
    "Rival",
    "Row",
    "Subject",
    "accumulated_step",
    "as_json",
    "compare",
    "estimate_memory",
    "largest_batch",
    "measure_batch",
    "measure_loading",
    "measure_loops",
    "measure_losses",
    "measure_stages",
    "measure_start",
    "measure_steps",
    "peak_memory",
    "photograph_files",
    "subject",
    "time_no_model",
]
