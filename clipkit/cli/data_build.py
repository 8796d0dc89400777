"""``clipkit data build-icons`` and ``build-emoji``. Nothing heavy is imported before they run."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from clipkit.cli.data_progress import progress
from clipkit.cli.explain import ConfigError
from clipkit.cli.numbers import natural, positive

__all__ = ["EMOJI", "ICONS", "build_emoji", "build_icons", "emoji_arguments", "icons_arguments"]

ICONS = """Draw the icons of one npm package, licences allowing, and write them with a card, so that DIR is a SPEC.
Stopped or killed, the same command goes on where it was."""
EMOJI = "Render the emoji set from its sources (three npm packages), or check a built one against them."


def icons_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``build-icons`` takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write")
    parser.add_argument(
        "--from", dest="source", metavar="FOLDER", type=Path, help="the unpacked package; fetched without it"
    )
    parser.add_argument(
        "--sets", metavar="NAME", nargs="+", default=[], help="draw these sets alone, such as mdi lucide"
    )
    parser.add_argument("--size", type=positive, default=64, metavar="PIXELS", help="of both sides (%(default)s)")
    parser.add_argument("--workers", type=natural, metavar="N", help="processes (one a core); 0 works in this one")


def emoji_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``build-emoji`` takes."""
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="where to write; with --check, what to check"
    )
    parser.add_argument(
        "--packages", metavar="NODE_MODULES", type=Path, help="a folder that holds the npm packages; fetched without it"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing: compare the pixels of DIR, or of the set that clipkit ships, with a fresh rendering",
    )


def build_icons(args: argparse.Namespace) -> int:
    """Draw the icons and print the counts."""
    if args.source is not None and not args.source.is_dir():
        raise ConfigError(f"--from: there is no folder {args.source}.")
    from clipkit.data.build_emoji import fetch_packages
    from clipkit.data.build_icons import PACKAGE, find_package
    from clipkit.data.build_icons import build_icons as draw_icons

    with tempfile.TemporaryDirectory() as folder, progress("drawn", None, None) as report:
        try:
            package = find_package(args.source or fetch_packages(Path(folder), [PACKAGE]))
            counts = draw_icons(package, args.folder, args.size, args.sets, args.workers, report)
        except (OSError, RuntimeError, ModuleNotFoundError) as error:  # each says what is missing and what to do
            raise ConfigError(f"{str(error).rstrip('.')}.") from error
    for name, count in counts.items():
        print(f"{name:24}{count:>16,}")
    return 0


def build_emoji(args: argparse.Namespace) -> int:
    """Render the emoji set, or check one."""
    if args.packages is not None and not args.packages.is_dir():
        raise ConfigError(f"--packages: there is no folder {args.packages}.")
    if args.folder is None and not args.check:
        raise ConfigError("DIR is missing: where is the set to be written?")
    try:
        if args.packages is not None:
            return _build_emoji(args.packages, args.folder, args.check)
        from clipkit.data.build_emoji import fetch_packages

        with tempfile.TemporaryDirectory() as folder:
            return _build_emoji(fetch_packages(Path(folder)), args.folder, args.check)
    except (OSError, RuntimeError, ModuleNotFoundError) as error:  # each says what is missing and what to do
        raise ConfigError(f"{str(error).rstrip('.')}.") from error


def _build_emoji(packages: Path, folder: Path | None, check: bool) -> int:
    from clipkit.data.build_emoji import build_emoji

    if check or folder is None:  # run() asked for a folder to build in
        return _check_emoji(packages, folder)
    for name, count in build_emoji(packages, folder).items():
        print(f"{name:24}{count:>12,}")
    return 0


def _check_emoji(packages: Path, folder: Path | None) -> int:
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
