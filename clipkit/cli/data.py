"""``clipkit data``: check, pack and build data sets. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipkit.cli.data_build import EMOJI, ICONS, build_emoji, build_icons, emoji_arguments, icons_arguments
from clipkit.cli.data_progress import progress
from clipkit.cli.explain import ConfigError
from clipkit.cli.numbers import natural, positive

__all__ = ["add_arguments", "run"]

SPEC = "what data.train takes: emoji, a file, a pattern, a folder, a hub id, tar shards, an address; :SPLIT behind it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's subcommands."""
    subcommands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, purpose, description, declare in (
        ("check", "say what is in a data set, what cannot be used first", CHECK, _check_arguments),
        ("pack", "shrink a data set, once, to what training reads fast", PACK, _pack_arguments),
        ("build-icons", "draw some hundred thousand icons with their names", ICONS, icons_arguments),
        ("build-emoji", "render the embedded emoji set anew", EMOJI, emoji_arguments),
    ):
        declare(subcommands.add_parser(name, help=purpose, description=description, allow_abbrev=False))


CHECK = """Open every image and read every caption as the loader would, and print what cannot be used and why, image
sizes, caption lengths, equal captions, equal and nearly equal images."""
PACK = """Write the rows that can be used, shrunk and without duplicates, to memory-mapped shards with a manifest.
DIR is then itself a SPEC. Stopped or killed, the same command goes on where it was."""


def _rows_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=SPEC)
    parser.add_argument("--limit", type=positive, metavar="N", help="stop after this many rows")
    parser.add_argument("--image", metavar="COLUMN", help="the image column (the first with images)")
    parser.add_argument(
        "--caption", metavar="COLUMN", action="append", help="a caption column, repeatable (the first usual one)"
    )
    parser.add_argument("--workers", type=natural, metavar="N", help="processes (one a core); 0 works in this one")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _rows_arguments(parser)
    parser.add_argument(
        "--tokenizer", default="emoji", metavar="NAME", help="emoji, a tokenizer.json or a hub name (%(default)s)"
    )
    parser.add_argument(
        "--context-length", type=positive, default=77, metavar="N", help="tokens that a model takes (%(default)s)"
    )
    parser.add_argument(
        "--no-near", action="store_true", help="do not look for near-duplicate images, which takes longest"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was found to this file")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw it: PNG files in this folder")


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    _rows_arguments(parser)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to write")
    parser.add_argument(
        "--size",
        type=positive,
        default=256,
        metavar="PIXELS",
        help="of the shorter side, never enlarged (%(default)s)",
    )
    parser.add_argument(
        "--format",
        default="jpeg",
        choices=("jpeg", "uint8"),
        help="uint8 is many times as large, and nothing is left to decode (%(default)s)",
    )
    parser.add_argument("--quality", type=positive, default=90, metavar="Q", help="of JPEG (%(default)s)")
    parser.add_argument(
        "--duplicates",
        default="rows",
        choices=("rows", "images", "near", "none"),
        help="which to leave out: equal image and captions, equal image, nearly equal image, or none (%(default)s)",
    )
    parser.add_argument(
        "--rows-per-shard", type=positive, default=1024, metavar="N", help="of the source, for a file (%(default)s)"
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

    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "check": _check,
        "pack": _pack,
        "build-icons": build_icons,
        "build-emoji": build_emoji,
    }
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
    with progress("checked", rows, args.limit) as report:
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
    with progress("packed", rows, args.limit) as report:
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
