"""``clipkit replay``: send MLflow what earlier runs could not. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkit.cli.explain import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, default=Path("runs"),
        help="a run's spool, or a folder with runs anywhere in it (runs)",
    )  # fmt: skip
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the tracking server, where its address has a user name and password in it",
    )


def run(args: argparse.Namespace) -> int:
    """Send what waits, run by run.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0 where everything has arrived, 1 where something still waits.

    Raises:
        ConfigError: For a folder that is not there or in which there was never a run.
    """
    if not args.folder.is_dir():
        raise ConfigError(f"DIR: there is no folder {args.folder}.")
    from clipkit.tracking import find_spools, install_redaction, replay

    install_redaction()
    folders = list(find_spools(args.folder))
    if not folders:
        raise ConfigError(f"DIR: in {args.folder} there is no run that was tracked in MLflow.")
    results = [replay(folder, args.tracking_uri) for folder in folders]
    for result in results:
        if result.problem is not None:
            print(f"{result.folder.parent}: {result.left} records wait: {result.problem}")
        elif result.sent:
            print(f"{result.folder.parent}: sent {result.sent} records to run {result.run_id}")
    if not any(result.sent or result.left or result.problem for result in results):
        print(f"nothing waits in {args.folder}")
    return 1 if any(result.problem is not None or result.left for result in results) else 0
