"""``clipkit bench loss|step|batch|overhead``: what training costs, beside open_clip, bare Lightning or a plain loop."""

from __future__ import annotations

import argparse
import platform
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.cli.explain import ConfigError

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger

    from clipkit.benchmarking import Row

__all__ = [
    "add_batch_arguments",
    "add_loss_arguments",
    "add_overhead_arguments",
    "add_step_arguments",
    "measure_batch",
    "measure_loss",
    "measure_overhead",
    "measure_step",
    "tell",
]

EMOJI = ["fit", "-c", "emoji", "--data.workers=1"]


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``clipkit bench loss``."""
    parser.add_argument("--batches", metavar="B", type=int, nargs="+", default=[4096, 8192], help="sizes to time")
    parser.add_argument("--memory", metavar="B", type=int, default=32768, help="size to measure the memory at (32,768)")
    parser.add_argument("--loss", choices=["InfoNCE", "sigmoid"], help="one of them alone (both)")
    parser.add_argument("--width", metavar="D", type=int, default=512, help="of the embeddings (512)")
    _add_rounds(parser, 5)


def measure_loss(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the losses; they are always held against open_clip's."""
    from clipkit.benchmarking import LOSSES, measure_losses

    _at_least(args, 1, "rounds", "width", "memory")
    if min(args.batches) < 1:
        raise ConfigError(f"--batches {min(args.batches)} is not at least 1.")
    names = list(LOSSES) if args.loss is None else [args.loss]
    return _figures(args, measure_losses(names, args.batches, args.memory, args.width, args.rounds))


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``clipkit bench step``."""
    parser.add_argument("--model", default="ViT-S-32-alt", help="open_clip's name of the architecture (ViT-S-32-alt)")
    largest = "pairs a step (64), or `largest`: the power of two that fits on the GPU on both sides"
    parser.add_argument("--batch", metavar="B", type=_batch, default=64, help=largest)
    one = "fp32 or bf16 alone (both); with one of them, larger batches fit"
    parser.add_argument("--precision", metavar="P", choices=["fp32", "bf16"], help=one)
    parser.add_argument("--compile", action="store_true", help="compile both models, and clipkit's objective")
    _add_rounds(parser, 7)


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a step; it is always held against open_clip's."""
    import torch

    from clipkit.benchmarking import ARCHITECTURES, PRECISIONS, largest_batch, measure_steps

    _at_least(args, 1, "rounds")
    if args.model not in ARCHITECTURES:
        raise ConfigError(f"--model {args.model} is not one of {', '.join(ARCHITECTURES)}.")
    if args.batch is None and not torch.cuda.is_available():
        raise ConfigError("--batch largest is for a GPU, whose memory says when it is full; there is none here.")
    precisions = PRECISIONS if args.precision is None else (args.precision,)
    batch = args.batch or largest_batch(args.model, args.compile, precisions)
    return _figures(args, measure_steps(args.model, batch, args.rounds, args.compile, precisions))


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``clipkit bench batch``."""
    parser.add_argument("--batch", metavar="B", type=int, default=32768, help="pairs of the large batch (32,768)")
    parser.add_argument(
        "--micro-batch", metavar="N", type=int, default=256, help="pairs the model sees at a time (256)"
    )
    parser.add_argument("--blocks", metavar="N", type=int, default=12, help="of the vision tower, a ViT-Ti/16 (12)")
    _add_rounds(parser, 5)


def measure_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a large batch in micro-batches."""
    import resource

    from clipkit.benchmarking import accumulated_step, measure_batch

    _at_least(args, 1, "rounds", "blocks")
    if not 2 <= args.micro_batch <= args.batch:
        raise ConfigError(f"--micro-batch {args.micro_batch} is not between 2 and --batch {args.batch}.")
    rival = accumulated_step if args.against else None
    figures = _figures(args, measure_batch(args.batch, args.micro_batch, args.rounds, args.blocks, rival))
    return {**figures, "process_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def add_overhead_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``clipkit bench overhead``."""
    parser.add_argument("--steps", metavar="N", type=int, default=2000, help="steps that do nothing (2,000)")
    loaded = "experiment whose steps are timed on loaded batches (emoji)"
    parser.add_argument("--experiment", metavar="NAME", default="emoji", help=loaded)
    parser.add_argument("--batch", metavar="B", type=int, help="its data.batch_size, if another")
    loaded_steps = "of them that are timed a round (10)"
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="its data.workers (1)")
    parser.add_argument("--loaded-steps", metavar="N", type=int, default=10, help=loaded_steps)
    _add_rounds(parser, 5)


def measure_overhead(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of what is around a step."""
    from clipkit.benchmarking import measure_loading, measure_loops, measure_start, time_no_model
    from clipkit.cli.config import load_experiment
    from clipkit.cli.session import default_callbacks, quiet
    from clipkit.tracking import MLflowLogger

    _at_least(args, 1, "rounds", "steps", "workers", "loaded_steps")
    quiet()
    warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
    with tempfile.TemporaryDirectory() as folder:
        plain = [f"--trainer.default_root_dir={folder}", "--trainer.logger=false"]
        batch = [] if args.batch is None else [f"--data.batch_size={args.batch}"]
        experiment = load_experiment([args.experiment], [*plain, f"--data.workers={args.workers}", *batch])

        # One for all rounds: making it takes seconds beside the first, which are no part of a step.
        database = f"sqlite:///{Path(folder) / 'mlflow.db'}"

        def watched(run: Path) -> tuple[Logger, list[pl.Callback]]:
            return MLflowLogger(tracking_uri=database, save_dir=str(run)), default_callbacks(experiment)

        rows = measure_loops(watched, args.steps, args.rounds, time_no_model if args.against else None)
        built = experiment.build()
        rows.append(measure_loading(experiment.name, *built, args.rounds, args.loaded_steps))
    rows.append(measure_start(EMOJI, args.rounds))
    return _figures(args, rows)


def tell(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "beside", "theirs", "clipkit", "unit", "share of theirs")
    for row in figures["rows"]:
        share = row["share"]
        spread = f"{share['median']:.3f}"
        if share["least"] != share["most"]:
            spread += f" ({share['least']:.2f} to {share['most']:.2f})"
        table.add_row(row["what"], row["base"], f"{row['theirs']:,.2f}", f"{row['ours']:,.2f}", row["unit"], spread)
    print(figures["device"])
    Console().print(table)
    if "process_peak_gib" in figures:
        print(f"most memory the whole process held: {figures['process_peak_gib']:.2f} GiB")


def _figures(args: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    import torch

    from clipkit.benchmarking import as_json

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {"what": args.what, "device": gpu or device, "rounds": args.rounds, "rows": as_json(rows)}


def _add_rounds(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument("--rounds", metavar="N", type=int, default=rounds, help=f"medians of so many ({rounds})")


def _batch(given: str) -> int | None:
    """Pairs a step; None for the most that fit."""
    if given == "largest":
        return None
    if not given.isdecimal() or not int(given):
        raise argparse.ArgumentTypeError(f"{given} is neither `largest` nor a number above 0")
    return int(given)


def _at_least(args: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)} is not at least {least}.")
