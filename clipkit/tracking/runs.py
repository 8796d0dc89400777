"""Which run: local ids, and what tells a stopped run from a failed one."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.tracking.redact import redact
from clipkit.tracking.spool import Spool, find_spools

__all__ = ["find_run", "folder_name", "is_stop", "run_of_checkpoint"]


def run_of_checkpoint(path: str | Path) -> str | None:
    """The local id of the run whose folder a checkpoint lies in, to be given to ``MLflowLogger(run_id=...)``."""
    folder = Path(path).absolute().parent.parent
    return folder.name if (folder / "spool" / "run.json").is_file() else None


def find_run(save_dir: str, experiment: str, run_id: str | None, run_name: str | None) -> tuple[str, str, str | None]:
    """Choose or find the run to write to.

    Args:
        save_dir: Where runs are kept.
        experiment: The experiment of a new run.
        run_id: Local id or MLflow's id of an earlier run, or None for a new one.
        run_name: Beginning of a new run's local id.

    Returns:
        The experiment, the local id, and MLflow's id where the run was begun elsewhere.
    """
    if run_id is None:
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        return experiment, f"{folder_name(redact(run_name))}-{stamp}" if run_name else stamp, None
    for folder in find_spools(Path(save_dir)):
        card = Spool(folder).card()
        if card is not None and run_id in (card.version, card.run_id):
            return card.experiment, card.version, None
    return experiment, folder_name(run_id), run_id


def folder_name(name: str) -> str:
    """A name that is one folder's on every system."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "run"


def is_stop(exception: BaseException | None) -> bool:
    """Whether somebody ended the run from outside (Ctrl-C, SIGTERM), rather than something in it having failed."""
    if exception is None or isinstance(exception, Exception):
        return False
    # other than an error, an exception of this kind is somebody's wish to stop; SystemExit alone is not
    return isinstance(exception, SIGTERMException) or not isinstance(exception, SystemExit)
