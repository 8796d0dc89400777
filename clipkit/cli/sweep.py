"""``clipkit sweep``: an experiment in several settings and seeds, and how they compare. Light before ``run``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipkit.cli.sweep_plan import Sweep

__all__ = ["add_arguments", "run"]

FOLDER = Path("sweeps")
"""Where each sweep has a folder, by its name; below the working folder, as runs are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; what is left over are overrides."""
    parser.add_argument("-c", "--config", metavar="FILE", help="a sweep: a YAML file, or the name of a shipped one")
    trust = "a module whose classes may be named, besides clipkit, torch, lightning and .py files beside the base"
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust)
    uri = "the MLflow server or SQLite file that tracks the runs (default: sqlite:///mlflow.db)"
    parser.add_argument("--tracking-uri", metavar="URI", default="sqlite:///mlflow.db", help=uri)
    parser.add_argument("--dry-run", action="store_true", help="check every run and list them, but train none")
    parser.usage = f"{parser.prog} -c FILE [options] [--SECTION.KEY=VALUE ...]"
    parser.epilog = "A value given by its dotted key holds for every run: --trainer.max_epochs=3"
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Train what is not yet trained, and compare.

    Args:
        args: As declared by ``add_arguments``, with ``overrides``.

    Returns:
        0; 1 where a run failed; 128 and the signal's number where one stopped the sweep.

    Raises:
        ConfigError: For the first mistake in the file or any of its runs, before the first begins.
    """
    from clipkit.cli.sweep_plan import read_sweep

    sweep = read_sweep(args.config, args.overrides, args.trust)
    for note in sweep.notes:
        print(f"note: {note}", file=sys.stderr)
    return _list(sweep) if args.dry_run else _train(args, sweep)


def _train(args: argparse.Namespace, sweep: Sweep) -> int:
    from clipkit.cli.session import quiet
    from clipkit.cli.sweep_run import Trainings, claimed, stopping
    from clipkit.cli.sweep_session import SweepSession
    from clipkit.cli.sweep_tracking import open_parent
    from clipkit.tracking import install_redaction
    from clipkit.tracking.redact import environment_secrets, redact

    quiet()
    install_redaction(environment_secrets())
    folder = FOLDER / sweep.path.stem
    with claimed(folder) as lock:
        trainings = Trainings(sweep, folder, _options(args), lock)
        with stopping(trainings):
            parent = open_parent(sweep, folder, args.tracking_uri)
            if parent is not None and parent.run_id is None:
                print("note: the tracker does not answer; runs begun now will be nobody's children.", file=sys.stderr)
            session = SweepSession(trainings, parent, args.tracking_uri)
            code = session.run()
    if trainings.stopped is not None:
        done = f"{len(session.curves)} of {len(sweep.runs)} runs have finished"
        print(f"{signal.Signals(trainings.stopped).name}: stopped; {done}. To go on:", file=sys.stderr)
        words = ["-c", args.config, *_options(args), "--tracking-uri", args.tracking_uri, *args.overrides]
        print(f"  clipkit sweep {redact(shlex.join(words))}", file=sys.stderr)
    return code


def _options(args: argparse.Namespace) -> list[str]:
    return [word for module in args.trust for word in ("--trust", module)]


def _list(sweep: Sweep) -> int:
    from clipkit.cli.document import shown
    from clipkit.cli.sweep_plan import words
    from clipkit.tracking.redact import redact

    first = {run.setting: run for run in reversed(sweep.runs)}
    seeds = len(sweep.runs) // len(first)
    what = f"{len(first)} settings x {seeds} seeds = {len(sweep.runs)} runs of {shown(sweep.base)}"
    print(f"{what}, compared by {sweep.metric}")
    for setting in sweep.settings:
        print(f"{setting}: {redact(' '.join(words(first[setting])))}")
    return 0
