"""Where callbacks put a run's files, whatever logger there is or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipkit.tracking.spool import replace_text

if TYPE_CHECKING:
    import lightning.pytorch as pl

__all__ = ["run_folder", "store"]


def run_folder(trainer: pl.Trainer) -> Path:
    """The first logger's folder for this run, or the trainer's root folder without one."""
    for logger in trainer.loggers:
        if logger.log_dir is not None:
            return Path(logger.log_dir)
    return Path(trainer.default_root_dir)


def store(trainer: pl.Trainer, file: str, content: bytes | str) -> Path:
    """Write a file into the run's folder, and give it to every logger that takes artifacts.

    Args:
        trainer: The trainer, on rank zero.
        file: Path below the run's folder, and among the artifacts.
        content: Its bytes, or text without credentials.

    Returns:
        Where it was written.
    """
    path = run_folder(trainer) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        replace_text(path, content)
    else:
        path.write_bytes(content)
    folder = Path(file).parent.as_posix()
    for logger in trainer.loggers:
        if hasattr(logger, "log_artifact"):
            logger.log_artifact(path, "" if folder == "." else folder)
    return path
