"""``clipkit data``: build and check data sets. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from clipkit.cli.explain import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's subcommands."""
    subcommands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    emoji = subcommands.add_parser(
        "build-emoji",
        help="render the embedded emoji set anew",
        description="Render the emoji set from its sources (three npm packages), or check a built one against them.",
        allow_abbrev=False,
    )
    emoji.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="where to write; with --check, what to check"
    )
    emoji.add_argument(
        "--packages", metavar="NODE_MODULES", type=Path, help="a folder that holds the npm packages; fetched without it"
    )
    emoji.add_argument(
        "--check",
        action="store_true",
        help="write nothing: compare the pixels of DIR, or of the set that clipkit ships, with a fresh rendering",
    )


def run(args: argparse.Namespace) -> int:
    """Build or check.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0, or 1 where a check found a difference.

    Raises:
        ConfigError: For a folder that is not there, or a source or renderer that is missing.
    """
    if args.packages is not None and not args.packages.is_dir():
        raise ConfigError(f"--packages: there is no folder {args.packages}.")
    if args.folder is None and not args.check:
        raise ConfigError("DIR is missing: where is the set to be written?")
    try:
        if args.packages is not None:
            return _emoji(args.packages, args.folder, args.check)
        from clipkit.data.build_emoji import fetch_packages

        with tempfile.TemporaryDirectory() as folder:
            return _emoji(fetch_packages(Path(folder)), args.folder, args.check)
    except (OSError, RuntimeError, ModuleNotFoundError) as error:  # each says what is missing and what to do
        raise ConfigError(f"{str(error).rstrip('.')}.") from error


def _emoji(packages: Path, folder: Path | None, check: bool) -> int:
    from clipkit.data.build_emoji import build_emoji

    if check or folder is None:  # run() asked for a folder to build in
        return _check(packages, folder)
    for name, count in build_emoji(packages, folder).items():
        print(f"{name:24}{count:>12,}")
    return 0


def _check(packages: Path, folder: Path | None) -> int:
    from importlib import resources

    from clipkit.data.build_emoji import check_emoji

    assets = Path(str(resources.files("clipkit"))) / "data/assets/emoji"
    parquet = (folder or assets) / "emoji.parquet"
    if not parquet.is_file():
        raise ConfigError(f"there is no file {parquet} to check.")
    differences = check_emoji(packages, parquet)
    for line in differences:
        print(line)
    print(f"{parquet}: {f'{len(differences)} rows differ' if differences else 'every pixel agrees'}")
    return 1 if differences else 0
