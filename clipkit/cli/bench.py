"""``clipkit bench``: what is fast, and beside what. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.cli import bench_data, bench_training
from clipkit.cli.explain import ConfigError

__all__ = ["add_arguments", "run"]


class _Subject(NamedTuple):
    sentence: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    tell: Callable[[dict[str, Any]], None]


SUBJECTS = {
    "data": _Subject(
        "each stage of the loader, and the loader itself; which stage holds it up",
        bench_data.add_arguments,
        bench_data.measure,
        bench_data.tell,
    ),
    "loss": _Subject(
        "time and memory of the losses of large batches",
        bench_training.add_loss_arguments,
        bench_training.measure_loss,
        bench_training.tell,
    ),
    "step": _Subject(
        "a training step of the same architecture and weights",
        bench_training.add_step_arguments,
        bench_training.measure_step,
        bench_training.tell,
    ),
    "batch": _Subject(
        "a large batch in micro-batches: time a sample, memory",
        bench_training.add_batch_arguments,
        bench_training.measure_batch,
        bench_training.tell,
    ),
    "overhead": _Subject(
        "what Lightning, clipkit, loading and the start cost",
        bench_training.add_overhead_arguments,
        bench_training.measure_overhead,
        bench_training.tell,
    ),
}


AGAINST = "measure beside this too; `loss` and `step` always do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's subjects."""
    subcommands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, subject in SUBJECTS.items():
        sentence = f"Measure {subject.sentence}."
        declared = subcommands.add_parser(name, help=subject.sentence, description=sentence, allow_abbrev=False)
        subject.add_arguments(declared)
        declared.add_argument("--against", choices=["open_clip"], help=AGAINST)
        declared.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")


def run(args: argparse.Namespace) -> int:
    """Measure and tell.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0.

    Raises:
        ConfigError: For a figure out of range, a data set that cannot be read, or a library that is not installed.
    """
    subject = SUBJECTS[args.what]
    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigError(f"--json: there is no folder {args.json.parent}.")
    try:
        figures = subject.measure(args)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}, which is measured beside; install open_clip_torch[training].") from error
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    subject.tell(figures)
    return 0
