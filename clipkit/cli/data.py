"""``clipkit data``: check, pack and build data sets. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipkit.cli.explain import ConfigError

__all__ = ["add_arguments", "run"]

SPEC = "what data.train takes: emoji, a file, a pattern, a folder, a hub id, tar shards, an address; :SPLIT behind it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's subcommands."""
    subcommands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, purpose, description, declare in (
        ("check", "say what is in a data set, what cannot be used first", CHECK, _check_arguments),
        ("pack", "shrink a data set, once, to what training reads fast", PACK, _pack_arguments),
        ("build-emoji", "render the embedded emoji set anew", EMOJI, _emoji_arguments),
    ):
        declare(subcommands.add_parser(name, help=purpose, description=description, allow_abbrev=False))


CHECK = """Open every image and read every caption as the loader would, and print what cannot be used and why, image
sizes, caption lengths, equal captions, equal and nearly equal images."""
PACK = """Write the rows that can be used, shrunk and without duplicates, to memory-mapped shards with a manifest.
DIR is then itself a SPEC. Stopped or killed, the same command goes on where it was."""
EMOJI = "Render the emoji set from its sources (three npm packages), or check a built one against them."


def _rows_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC)
    parser.add_argument("--limit", type=_positive, metavar="N", help="stop after this many rows")
    parser.add_argument("--image", metavar="COLUMN", help="the image column (the first with images)")
    parser.add_argument(
        "--caption", metavar="COLUMN", action="append", help="a caption column, repeatable (the first usual one)"
    )
    parser.add_argument("--workers", type=_count, metavar="N", help="processes (one a core); 0 works in this one")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _rows_arguments(parser)
    parser.add_argument(
        "--tokenizer", default="emoji", metavar="NAME", help="emoji, a tokenizer.json or a hub name (%(default)s)"
    )
    parser.add_argument(
        "--context_length", type=_positive, default=77, metavar="N", help="tokens that a model takes (%(default)s)"
    )
    parser.add_argument(
        "--no_near", action="store_true", help="do not look for near-duplicate images, which takes longest"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was found to this file")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw it: PNG files in this folder")


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    _rows_arguments(parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write")
    parser.add_argument(
        "--size",
        type=_positive,
        default=256,
        metavar="PIXELS",
        help="of the shorter side, never enlarged (%(default)s)",
    )
    parser.add_argument(
        "--format",
        default="jpeg",
        choices=("jpeg", "uint8"),
        help="uint8 is ten times as large, and nothing is left to decode (%(default)s)",
    )
    parser.add_argument("--quality", type=_positive, default=90, metavar="Q", help="of JPEG (%(default)s)")
    parser.add_argument(
        "--duplicates",
        default="rows",
        choices=("rows", "images", "near", "none"),
        help="which to leave out: equal image and captions, equal image, nearly equal image, or none (%(default)s)",
    )
    parser.add_argument(
        "--rows_per_shard", type=_positive, default=1024, metavar="N", help="of the source, for a file (%(default)s)"
    )


def _emoji_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    """Check, pack or build.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0, 1 where a check of the emoji set found a difference, or 130 after Ctrl-C.

    Raises:
        ConfigError: For a folder or a column that is not there, or a source or renderer that is missing.
    """
    from clipkit.types import ArgumentError

    commands: dict[str, Callable[[argparse.Namespace], int]] = {"check": _check, "pack": _pack, "build-emoji": _emoji}
    try:
        return commands[args.what](args)
    except ArgumentError as error:
        name = {"train": "SPEC", "SPEC": "SPEC", "DIR": "DIR"}.get(error.argument, f"--{error.argument}")
        raise ConfigError(f"{name}: {error.message.rstrip('.')}.") from error
    except KeyboardInterrupt:
        print(f"clipkit data {args.what}: stopped", file=sys.stderr)
        return 130


def _check(args: argparse.Namespace) -> int:
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {args.json.parent} to write {args.json.name} to.")
    from rich.console import Console

    from clipkit.data.check import check
    from clipkit.data.check_report import draw, to_tables

    rows = _rows(args)
    with _progress("checked", rows, args.limit) as report:
        found = check(
            rows,
            args.spec,
            args.tokenizer,
            args.context_length,
            args.image,
            args.caption,
            not args.no_near,
            args.limit,
            args.workers,
            report,
        )
    Console().print(to_tables(found.report))
    if args.json is not None:
        args.json.write_text(json.dumps(found.report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in draw(found, args.pictures) if args.pictures is not None else []:
        print(file)
    return 0


def _pack(args: argparse.Namespace) -> int:
    from clipkit.data.pack import pack

    rows = _rows(args)
    with _progress("packed", rows, args.limit) as report:
        manifest = pack(
            rows,
            args.folder,
            args.spec,
            args.size,
            args.format,
            args.quality,
            args.image,
            args.caption,
            args.duplicates,
            args.limit,
            args.rows_per_shard,
            args.workers,
            report,
        )
    size = sum(shard["bytes"] for shard in manifest["shards"])
    counts = {"read": manifest["read"], **manifest["skipped"], "written": manifest["written"], "bytes": size}
    for name, count in counts.items():
        print(f"{name:24}{count:>16,}")
    print(f"{'fingerprint':24}{manifest['fingerprint']:>16}")
    return 0


def _rows(args: argparse.Namespace) -> Any:
    from clipkit.data import open_rows

    return open_rows(args.spec, image=args.image)


@contextmanager
def _progress(done: str, rows: Any, limit: int | None) -> Iterator[Callable[[int, Counter[str]], None]]:
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
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task, said = bar.add_task("", total=total, bad=""), time.monotonic()

        def report(read: int, skipped: Counter[str]) -> None:
            nonlocal said
            left_out = f"{skipped.total():,} left out" if skipped else ""
            bar.update(task, completed=read, bad=left_out)
            if bar.disable and time.monotonic() - said > 15:
                said = time.monotonic()
                print(f"{read:,} rows {done}" + (f", {left_out}" if left_out else ""), file=sys.stderr, flush=True)

        yield report


def _emoji(args: argparse.Namespace) -> int:
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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value
