"""Results of tasks, task -> metric -> value, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from rich.table import Table

__all__ = ["Results", "to_json", "to_table"]

Results = Mapping[str, Mapping[str, float]]


def to_table(results: Results, title: str | None = None) -> Table:
    """A rich table, one line a metric, so that long metric names fit a narrow terminal.

    Args:
        results: Task to metric to value; shares are in [0, 1], ranks start at 1.
        title: Printed above.

    Returns:
        The table; ``rich.print`` shows it.
    """
    table = Table("task", "metric", title=title)
    table.add_column("value", justify="right")
    for task, figures in results.items():
        for line, (metric, value) in enumerate(figures.items()):
            table.add_row("" if line else task, metric, f"{value:.4f}", end_section=line == len(figures) - 1)
    return table


def to_json(results: Results) -> str:
    """Strict JSON: values at full precision, and ``null`` where one is not finite, which JSON cannot say."""
    plain = {
        task: {metric: value if math.isfinite(value) else None for metric, value in figures.items()}
        for task, figures in results.items()
    }
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"
