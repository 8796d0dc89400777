"""``clipkit bench data``: how fast a data set is loaded, and what holds it up."""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.cli.explain import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from clipkit.benchmarking import Subject

__all__ = ["add_arguments", "measure", "tell"]


def add_arguments(data: argparse.ArgumentParser) -> None:
    """Declare the command."""
    data.add_argument(
        "spec", metavar="SPEC", nargs="?", help="a data set, as for data.train; 500-pixel JPEG files without it"
    )
    data.add_argument("--size", metavar="PIXELS", type=int, default=224, help="side of the images made (224)")
    data.add_argument("--images", metavar="N", type=int, default=256, help="images to measure on (256)")
    data.add_argument("--rounds", metavar="N", type=int, default=7, help="times each is measured; medians are told (7)")
    data.add_argument("--workers", metavar="N", type=int, nargs="+", default=[1, 2], help="loader processes (1 2)")
    data.add_argument("--image", metavar="COLUMN", help="the image column, where it is not to be guessed")
    data.add_argument("--caption", metavar="COLUMN", help="the caption column, likewise")
    data.add_argument("--tokenizer", default="emoji", help="as for a text tower (emoji)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a data set.

    Raises:
        ConfigError: For a figure out of range, or a data set that cannot be read.
    """
    from clipkit.types import ArgumentError

    if min(args.size, args.rounds, *args.workers) < 1:
        raise ConfigError("--size, --rounds and --workers are at least 1.")
    try:
        return _measure(args)
    except ArgumentError as error:
        name = "SPEC" if error.argument == "train" else f"--{error.argument}"
        raise ConfigError(f"{name}: {error.message.rstrip('.')}.") from error


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from clipkit.benchmarking import OpenClip, compare, measure_stages, photograph_files

    with tempfile.TemporaryDirectory() as folder:
        spec = args.spec or str(photograph_files(Path(folder) / "photographs", args.images))
        measured = _subject(spec, args)
        figures = {
            "spec": args.spec or "photographs",
            "device": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "images": len(measured.rows),
            "size": args.size,
            "rounds": args.rounds,
            **measure_stages(measured, args.rounds, args.workers),
        }
        if args.against:
            figures["against"] = {"name": args.against, "rows": compare(measured, OpenClip, args.rounds)}
    return figures


def _subject(spec: str, args: argparse.Namespace) -> Subject:
    from clipkit.benchmarking import subject
    from clipkit.data import load_rows
    from clipkit.data.reading import first_rows
    from clipkit.data.streams import find_shards
    from clipkit.tokens import read_tokenizer
    from clipkit.types import InputSpec

    shards = find_shards(spec, "train", args.image)
    rows = load_rows(spec, "train", args.image) if shards is None else first_rows(shards, args.images, spec)[0]
    half, sides = (0.5, 0.5, 0.5), (args.size, args.size)
    inputs = InputSpec(sides, half, half, "bicubic", read_tokenizer(args.tokenizer), 77, "longest")
    return subject(rows, inputs, args.image, args.caption, args.images)


def tell(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    from rich.console import Console

    console = Console()
    print(f"{figures['spec']}: {figures['images']} images to {figures['size']} pixels; {figures['device']}")
    console.print(_stages(figures))
    slowest, noise = figures["bottleneck"], figures["psnr"]
    console.print(f"bottleneck: {slowest['stage']}, {100 * slowest['share']:.0f} % of a sample's time in a worker")
    console.print(f"difference from Pillow: PSNR {noise['least']:.1f} dB at least, {noise['median']:.1f} in the median")
    if "against" in figures:
        console.print(_against(figures["against"]))


def _stages(figures: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("stage", "ms an image", "images/s")
    for name, stage in figures["stages"].items():
        note = " (a mirror image; not in the loader)" if name == "augment" else ""
        table.add_row(f"{name}{note}", f"{stage['ms']:.3f}", f"{stage['images_per_second']:,.0f}")
    for name, loader in figures["loader"].items():
        times = loader["times_as_fast"]["median"]
        note = "" if times == 1 else f" ({times:.2f} times as fast)"
        rate = loader["images_per_second"]
        table.add_row(f"loader, {name} worker{'' if name == '1' else 's'}{note}", f"{1000 / rate:.3f}", f"{rate:,.0f}")
    return table


def _against(against: dict[str, Any]) -> Table:
    from rich.table import Table

    name, reads = against["name"], {"files": "the files", "jpeg": "packed JPEG", "uint8": "packed uint8"}
    table = Table("ms an image", f"{name} reads", "", "clipkit reads", "", "times as fast")
    for row in against["rows"]:
        times = row["times_as_fast"]
        fast = f"{times['median']:.2f} ({times['least']:.1f} to {times['most']:.1f})"
        theirs, ours = (reads[row["theirs"]], f"{row['theirs_ms']:.2f}"), (reads[row["ours"]], f"{row['ours_ms']:.3f}")
        table.add_row(row["what"], *theirs, *ours, fast)
    return table
