"""``clipkit evaluate CHECKPOINT --tasks ...``: what a model is worth. Nothing heavy is imported before ``run``."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.cli.explain import ConfigError, nearest
from clipkit.cli.numbers import positive
from clipkit.cli.trust import Trust

if TYPE_CHECKING:
    from torch import nn

    from clipkit.evaluation import Evaluator

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint of `clipkit fit`, or a file of `clipkit.save`"
    )
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="such as emoji/cells emoji/style")
    parser.add_argument("--json", metavar="FILE", help="also write task -> metric -> value to this file")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images at a time (each task has its own)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (a GPU where there is one)")
    parser.add_argument(
        "--benchmarks", nargs="+", default=[], metavar="FILE", help="YAML files that declare further tasks"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module whose classes the files may name; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, write JSON.

    Args:
        args: As declared by ``add_arguments``.

    Returns:
        0.

    Raises:
        ConfigError: A file, task, module or device is not there: found out before the model is loaded. Or the file
            cannot be read. The dispatcher prints it and returns 2.
    """
    _check_files(args)
    Trust(args.trust)  # which also makes a module in the working folder importable
    evaluators = _evaluators(args)
    model = _model(args)
    from rich.console import Console

    from clipkit.evaluation import to_json, to_table

    results = {task: evaluator(model) for task, evaluator in evaluators.items()}
    Console().print(to_table(results))
    if args.json:
        Path(args.json).write_text(to_json(results), encoding="utf-8")
    return 0


def _check_files(args: argparse.Namespace) -> None:
    checkpoint = Path(args.checkpoint)
    if not checkpoint.is_file():
        beside = [path.name for path in checkpoint.parent.iterdir()] if checkpoint.parent.is_dir() else []
        near = nearest(checkpoint.name, beside)
        hint = f" Did you mean {checkpoint.parent / near}?" if near else ""
        if checkpoint.is_dir():
            hint = f" It is a folder: `clipkit consolidate {checkpoint} FILE` makes a file of shards."
        raise ConfigError(f"CHECKPOINT: there is no file {checkpoint}.{hint}")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {Path(args.json).parent} to write {Path(args.json).name} to.")


def _evaluators(args: argparse.Namespace) -> dict[str, Evaluator]:
    from clipkit.evaluation import check_tasks, make_evaluator, read_tasks
    from clipkit.types import ArgumentError

    overrides = {} if args.batch_size is None else {"batch_size": args.batch_size}
    try:
        tasks = read_tasks(args.benchmarks)
        check_tasks(args.tasks, tasks)
        return {name: make_evaluator(tasks[name], args.trust, **overrides) for name in args.tasks}
    except ArgumentError as error:
        raise ConfigError(f"--{error.argument}: {error.message}") from error


def _model(args: argparse.Namespace) -> nn.Module:
    import torch

    from clipkit.models.saving import load

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise ConfigError(f"--device: {device} cannot be used here: {_first_line(error)}") from error
    try:
        model: nn.Module = load(args.checkpoint, trust=args.trust, device=device)
    except ValueError as error:  # says what to do
        raise ConfigError(f"CHECKPOINT: {error}") from error
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigError(f"CHECKPOINT: {args.checkpoint} cannot be read: {_first_line(error)}") from error
    return model


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
