"""What clipkit measures of itself and of a user's own experiment."""

from __future__ import annotations

from clipkit.benchmarking.comparison import Rival, compare
from clipkit.benchmarking.data import Subject, measure_stages, subject
from clipkit.benchmarking.memory import MemoryEstimate, estimate_memory, peak_memory
from clipkit.benchmarking.open_clip import OpenClip
from clipkit.benchmarking.pictures import photograph_files

__all__ = [
    "MemoryEstimate",
    "OpenClip",
    "Rival",
    "Subject",
    "compare",
    "estimate_memory",
    "measure_stages",
    "peak_memory",
    "photograph_files",
    "subject",
]
