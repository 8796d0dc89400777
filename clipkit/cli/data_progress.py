"""What the subcommands of ``clipkit data`` share: numbers on the command line, and a bar while rows go by."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress"]


@contextmanager
def progress(done: str, rows: Any, limit: int | None) -> Iterator[Callable[[int, Counter[str]], None]]:
    """A bar in a terminal, a line every quarter of a minute elsewhere; a stream's length is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = min((n for n in (getattr(rows, "num_rows", None), limit) if n is not None), default=None)
    columns = (
        TextColumn(f"[bold]{done}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}"),
    )
    silent = not sys.stderr.isatty()
    console = Console(stderr=True, quiet=silent)  # or some versions of rich end a bar that is none with an empty line
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=silent) as bar:
        task, said = bar.add_task("", total=total, bad=""), time.monotonic()

        def report(read: int, skipped: Counter[str]) -> None:
            nonlocal said
            left_out = f"{skipped.total():,} left out" if skipped else ""
            bar.update(task, completed=read, bad=left_out)
            if bar.disable and time.monotonic() - said > 15:
                said = time.monotonic()
                print(f"{read:,} rows {done}" + (f", {left_out}" if left_out else ""), file=sys.stderr, flush=True)

        yield report
