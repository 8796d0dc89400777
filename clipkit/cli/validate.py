"""``clipkit validate``: an experiment's validation on a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkit.cli.explain import ConfigError, Place
from clipkit.cli.fit import add_config_arguments, is_checkpoint, load

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; what is left over are overrides."""
    add_config_arguments(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="the weights to validate; those of the start without it")


def run(args: argparse.Namespace) -> int:
    """Validate.

    Args:
        args: As declared by ``add_arguments``, with ``overrides``.

    Returns:
        The exit code.

    Raises:
        ConfigError: For the first mistake in the experiment, or a checkpoint that is not there.
    """
    if args.checkpoint is not None and not is_checkpoint(Path(args.checkpoint)):
        raise ConfigError(f"--checkpoint {args.checkpoint}: there is no such file.", Place("command line"))
    experiment = load(args)
    if experiment is None:
        return 0
    from clipkit.tracking import TrackValidation

    task, data, trainer = experiment.build([TrackValidation()])
    weights_only = True if args.checkpoint else None
    trainer.validate(task, datamodule=data, ckpt_path=args.checkpoint, weights_only=weights_only)
    return 0
