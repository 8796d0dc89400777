"""What clipkit measures of itself and of a user's own experiment."""

from __future__ import annotations

from clipkit.benchmarking.memory import MemoryEstimate, estimate_memory, peak_memory

__all__ = ["MemoryEstimate", "estimate_memory", "peak_memory"]
