"""A training session of the command line: its default callbacks, what it says at the end, and how it can end."""

from __future__ import annotations

import itertools
import logging
import re
import shlex
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from clipkit.callbacks import (
    EvaluateTasks,
    Health,
    Interrupt,
    NonFiniteLoss,
    RandomState,
    RunInterrupted,
    RunningStatistics,
    SamplePosition,
    TrainingProgress,
    ValidationRetrieval,
)
from clipkit.checkpoints import Checkpoint, complete_checkpoints
from clipkit.cli.config import Experiment
from clipkit.cli.explain import ConfigError
from clipkit.data import TooManyUnusable
from clipkit.evaluation.report import to_table
from clipkit.tracking import (
    History,
    LogPictures,
    TooManySkipped,
    TrackRun,
    TrackSkipped,
    TrackValidation,
    install_redaction,
    run_of_checkpoint,
)
from clipkit.tracking.redact import environment_secrets, redact, secrets_in
from clipkit.types import ArgumentError

__all__ = [
    "closing",
    "continue_run",
    "default_callbacks",
    "ended_well",
    "hide_secrets",
    "keep_history",
    "newest",
    "quiet",
    "warn_of_unsaved_steps",
]

OUT_OF_MEMORY = """out of memory. What takes least away, first:
  --data.batch_size={smaller}                       fewer images a step on each device (negatives too)
  --model.micro_batch_size={smaller}                as many negatives, fewer at a time; slower, no batch-norm
  --trainer.precision=bf16-mixed               half the activations
  --model.model.vision.gradient_checkpointing=true  the same gradients; blocks are computed twice (text too)
  --model.model.vision.image_size=SMALLER      fewer pixels
  --model.model.text.context_length=SMALLER    fewer tokens
  --model.trainable.vision=none                no activations or gradients kept for that tower
`clipkit fit -c ... --dry-run` estimates the memory of a step before it is made."""

# How Lightning says at the first validation that a ModelCheckpoint asks for what nothing logs.
NO_METRIC = re.compile(r"`ModelCheckpoint\(monitor='(.*?)'\)` could not find .* in the returned metrics: \[(.*?)\]")

NEWEST = (
    "To keep the newest as well, add to trainer.callbacks: "
    "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, filename: last, save_on_train_epoch_end: true}"
)


def quiet() -> None:
    """Leave out what libraries say to nobody in particular; clipkit says what matters itself."""
    # Among them that SLURM's signal starts the job again, which it does not: see clipkit.callbacks.Interrupt.
    for talkative in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{talkative}").setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*weights_only.*",
        ".*WeightAveraging callback with a model that overrides.*",  # FSDP2 alone does anything there
    ):
        warnings.filterwarnings("ignore", message)


def default_callbacks(experiment: Experiment) -> list[pl.Callback]:
    """What watches every run of the command line; one of the same class in the YAML takes its place."""
    watching: list[pl.Callback] = [SamplePosition(), RandomState(), RunningStatistics(), Health()]
    if experiment.config["trainer"].get("enable_progress_bar") is not False:  # Lightning refuses a bar beside that
        watching.append(TrainingProgress())
    watching += [TrackRun(experiment.config), TrackSkipped()]
    if experiment.config.get("data", {}).get("val") or experiment.config.get("data", {}).get("val_fraction"):
        watching += [ValidationRetrieval(), TrackValidation(), LogPictures()]
    return [*watching, Interrupt()]


def hide_secrets(experiment: Experiment) -> None:
    """Keep the credentials of the experiment and the environment out of all that is said from here on."""
    install_redaction(secrets_in(experiment.config) | environment_secrets())


def continue_run(trainer: pl.Trainer, checkpoint: str) -> None:
    """Have the loggers that can write to the run that a checkpoint comes from, not to a new one."""
    run_id = run_of_checkpoint(checkpoint)
    for logger in trainer.loggers:
        if run_id is not None and hasattr(logger, "continue_run"):
            logger.continue_run(run_id)


def newest(trainer: pl.Trainer, experiment: str) -> str | None:
    """The newest complete checkpoint of an experiment where this trainer's runs are kept; None where there is none."""
    folders = {str(logger.save_dir) for logger in trainer.loggers if logger.save_dir is not None}
    folders |= {str(path) for saved in trainer.checkpoint_callbacks if (path := getattr(saved, "dirpath", None))}
    folders.add(str(Path(trainer.default_root_dir) / "checkpoints"))  # where Lightning puts those of no logger
    found = [one for folder in folders for one in itertools.islice(_usable(Path(folder), experiment), 1)]
    if not found:
        _say_once(f"note: there is no complete checkpoint of {experiment} to go on from; it starts afresh.")
        return None
    last = max(found, key=lambda one: one.time)
    _say_once(f"note: going on from {_near(last.path)}, step {last.step}.")
    return str(last.path)


def _usable(folder: Path, experiment: str) -> Iterator[Checkpoint]:
    for one in complete_checkpoints(folder, experiment):
        if one.finite:
            yield one
        else:
            _say_once(f"warning: {_near(one.path)}, step {one.step}, is passed over: not all its weights are finite.")


def keep_history(trainer: pl.Trainer, data: pl.LightningDataModule, file: str) -> None:
    """Have every metric written to a file, beside whatever else logs.

    Raises:
        ArgumentError: For a data module that does not say how many images a step takes.
    """
    if not hasattr(data, "batch_size"):
        raise ArgumentError("--metrics", f"images cannot be counted, since {type(data).__name__} has no batch_size.")
    effective = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    trainer.loggers = [*trainer.loggers, History(file, effective)]


def warn_of_unsaved_steps(trainer: pl.Trainer) -> None:
    """Say what Lightning does not: which steps its checkpoints leave out, ``save_last`` or not."""
    savers: list[Any] = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    newest = [one for one in savers if one.monitor is None and one.save_top_k]
    if savers and not newest:
        when = f"when {savers[0].monitor} is better than before, `save_last` too"
        _say_once(f"note: a checkpoint is saved only {when}. {NEWEST}")
        return
    every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs or 0
    if epochs > 0 and newest and epochs % every and not any(one._save_on_train_epoch_end for one in newest):
        lost = f"what the last {epochs % every} of {epochs} epochs learn is in no checkpoint"
        _say_once(f"note: checkpoints follow validation, every {every} epochs: {lost}. Let one divide the other.")


@contextmanager
def ended_well(args: Namespace, experiment: Experiment, codes: list[int]) -> Iterator[None]:
    """Turn the ends a run can come to into a few words and an exit code, appended to ``codes``."""
    try:
        yield
    except RunInterrupted as stop:
        how = "and saved" if stop.checkpoint else "but could not save it; the newest that was saved is taken"
        _say_once(f"{signal.Signals(stop.signum).name}: stopped after a whole step {how}. To go on:")
        _say_once(f"  {_again(args, stop.checkpoint)}")
        codes.append(128 + stop.signum)
    except (NonFiniteLoss, TooManySkipped) as error:
        _say(f"stopped: {error}")
        codes.append(1)
    except TooManyUnusable as error:  # a worker's comes with its traceback before the message
        _say(f"stopped: {str(error).strip().splitlines()[-1]}")
        codes.append(1)
    except ArgumentError as error:
        raise ConfigError(f"{error.argument}: {redact(error.message)}") from error
    except MisconfigurationException as error:
        unknown = NO_METRIC.match(str(error))
        if unknown is None:
            raise
        raise ConfigError(f"trainer.callbacks: {_no_metric(unknown[1], unknown[2].split(', '))}.") from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise  # what the CPU's allocator says is a plain RuntimeError
        batch_size = experiment.config.get("data", {}).get("batch_size", 2)
        _say(OUT_OF_MEMORY.format(smaller=max(1, int(batch_size) // 2)))
        codes.append(1)


def closing(trainer: pl.Trainer) -> None:
    """What a finished run says: results, findings, the best checkpoint, and how to see it all."""
    if not trainer.is_global_zero:
        return
    console = Console()
    results = _results(trainer)
    if results:
        console.print(to_table(results, title="results"))
    for finding in next((c.findings for c in _callbacks(trainer) if isinstance(c, Health)), []):
        console.print(f"health: {finding}", style="yellow", highlight=False)
    _lines(_never_logged(trainer))
    saved: Any = trainer.checkpoint_callback
    best = getattr(saved, "best_model_path", "") or getattr(saved, "last_model_path", "")
    if best and not get_filesystem(best).exists(best):  # a disk was full
        _lines([f"checkpoint: {Path(best).name} could not be saved; `--resume auto` goes on from the newest that was"])
    elif best:
        score = getattr(saved, "best_model_score", None)
        about = f"  ({saved.monitor} {float(score):.4f})" if score is not None else ""
        _lines([f"checkpoint: {_near(best)}{about}"])
    for logger in trainer.loggers:
        _lines(getattr(logger, "closing_lines", list)())


def _never_logged(trainer: pl.Trainer) -> Iterator[str]:
    """What a checkpoint was to be chosen by and nothing came of: a run without validation ends with no word of it."""
    for saver in trainer.checkpoint_callbacks:
        metric = getattr(saver, "monitor", None)
        if metric and metric not in trainer.callback_metrics and not getattr(saver, "best_model_path", ""):
            yield f"note: {_no_metric(metric, trainer.callback_metrics)}."


def _no_metric(metric: str, logged: Iterable[str]) -> str:
    near = get_close_matches(metric, [name.strip("'") for name in logged], n=1)
    hint = f"; the nearest that is: {near[0]!r}" if near else ""
    return f"no checkpoint can be chosen by {metric!r}, which is not logged{hint}"


def _results(trainer: pl.Trainer) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    for callback in _callbacks(trainer):
        if isinstance(callback, EvaluateTasks):
            results.update(callback.results)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    val = {name.removeprefix("val/"): value for name, value in figures.items() if name.startswith("val/")}
    train = {"loss": figures["train/loss"]} if "train/loss" in figures else {}
    return {name: part for name, part in (("train", train), ("val", val), *results.items()) if part}


def _callbacks(trainer: Any) -> list[pl.Callback]:
    return list(trainer.callbacks)  # Lightning sets it where mypy does not see it


def _again(args: Namespace, checkpoint: Path | None) -> str:
    words = ["clipkit", "fit"]
    for file in args.config:
        words += ["-c", file]
    for module in args.trust:
        words += ["--trust", module]
    words += [*args.overrides, "--tracking-uri", args.tracking_uri]
    words += ["--metrics", args.metrics, "--resume"] if args.metrics else ["--resume"]
    words.append("auto" if checkpoint is None else _near(checkpoint))
    return str(redact(shlex.join(words)))  # the terminal may be a file that others read


def _near(path: str | Path) -> str:
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)  # not through rich, which would break a long line that is to be copied


def _say(text: str) -> None:
    print(f"clipkit fit: {text}" if not text.startswith(" ") else text, file=sys.stderr)


_say_once = rank_zero_only(_say)
"""For what all ranks know; what goes wrong may have gone so on one of them."""
