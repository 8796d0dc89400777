"""``clipkit consolidate DIR FILE``: one file of a sharded checkpoint. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkit.cli.explain import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a checkpoint that is a folder with a file a rank")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to write, for clipkit.load and any strategy")


def run(args: argparse.Namespace) -> int:
    """Write the file.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0.

    Raises:
        ConfigError: For a folder that is no checkpoint or a damaged one, or a file that is there or cannot be written.
    """
    if args.file.exists():
        raise ConfigError(f"FILE: {args.file} is there already.")
    if not args.folder.is_dir():
        raise ConfigError(f"DIR: there is no folder {args.folder}.")
    from clipkit.checkpoints import consolidate

    try:
        consolidate(args.folder, args.file)
    except OSError as error:
        raise ConfigError(f"DIR: {error}") from error
    print(f"{args.file}: {args.file.stat().st_size / 2**20:.1f} MiB")
    return 0
