"""``clipkit fit``: train an experiment."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipkit.cli.explain import ConfigError, Place

if TYPE_CHECKING:
    from clipkit.cli.config import Experiment

__all__ = ["add_arguments", "add_config_arguments", "is_checkpoint", "load", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; what is left over are overrides."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="parameters, shapes, steps, memory and one tiny step, but no training"
    )
    resume = "go on in the run of a checkpoint; `auto`: of the newest complete one of this experiment, if there is one"
    uri = "the MLflow server or SQLite file that tracks the run (default: sqlite:///mlflow.db)"
    parser.add_argument("--tracking-uri", metavar="URI", default="sqlite:///mlflow.db", help=uri)
    parser.add_argument("--resume", metavar="CHECKPOINT|auto", help=resume)
    lines = "append every metric to this file, one step a line of JSON, with the images seen until then"
    parser.add_argument("--metrics", metavar="FILE", help=lines)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that takes an experiment has."""
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="an experiment: a YAML file, or the name of a shipped one (emoji); repeatable, later files win",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module whose classes may be named, besides clipkit, torch, lightning and .py files beside FILE",
    )
    parser.add_argument("--print_config", action="store_true", help="print the experiment with every default, and end")
    parser.usage = f"{parser.prog} -c FILE [options] [--SECTION.KEY=VALUE ...]"
    example = "--data.batch_size=64 --trainer.max_epochs 3"
    parser.epilog = f"Any value of the experiment is changed by its dotted key: {example}"
    parser.set_defaults(overrides=[])


def load(args: argparse.Namespace) -> Experiment | None:
    """Load the experiment of a command line; None once it was only to be printed.

    Raises:
        ConfigError: For the first mistake in it.
    """
    from clipkit.cli.config import load_experiment

    experiment = load_experiment(args.config, args.overrides, args.trust)
    for note in experiment.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.print_config:
        print(experiment.to_yaml(), end="")
        return None
    return experiment


def run(args: argparse.Namespace) -> int:
    """Train.

    Args:
        args: As declared by ``add_arguments``, with ``overrides``.

    Returns:
        0; 1 where the run failed for a reason that was said; 128 and the signal's number where one stopped it.

    Raises:
        ConfigError: For the first mistake in the experiment, or a checkpoint that is not there.
    """
    if args.resume not in (None, "auto") and not is_checkpoint(Path(args.resume)):
        raise ConfigError(f"--resume {args.resume}: there is no such file.", Place("command line"))
    experiment = load(args)
    if experiment is None:
        return 0
    from clipkit.cli.session import quiet

    quiet()
    return _dry_run(experiment) if args.dry_run else _train(args, experiment)


def is_checkpoint(path: Path) -> bool:
    """Return whether a path can be one: a file or a folder of shards."""
    return path.is_file() or (path / "meta.pt").is_file()  # or shards, beside which Lightning puts this


def _train(args: argparse.Namespace, experiment: Experiment) -> int:
    from clipkit.checkpoints import DurableCheckpointIO
    from clipkit.cli import session
    from clipkit.tracking import MLflowLogger

    codes: list[int] = []
    session.hide_secrets(experiment)
    with session.ended_well(args, experiment, codes):
        tracker = partial(MLflowLogger, tracking_uri=args.tracking_uri)
        callbacks, writer = session.default_callbacks(experiment), DurableCheckpointIO(experiment.name)
        task, data, trainer = experiment.build(callbacks, tracker, writer)
        session.warn_of_unsaved_steps(trainer)
        if args.metrics:
            session.keep_history(trainer, data, args.metrics)
        start = session.newest(trainer, experiment.name) if args.resume == "auto" else args.resume
        if start:
            session.continue_run(trainer, start)
        trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True if start else None)
        session.closing(trainer)
    return codes[0] if codes else 0


def _dry_run(experiment: Experiment) -> int:
    from clipkit.cli.dry_run import dry_run

    dry_run(experiment.build(default_logger=lambda: None))
    return 0
