"""The MLflow logger, its pictures, and the callbacks that feed it."""

from __future__ import annotations

from clipkit.tracking.log_pictures import LogPictures
from clipkit.tracking.logger import MLflowLogger
from clipkit.tracking.redact import RedactingFilter, install_redaction
from clipkit.tracking.runs import run_of_checkpoint
from clipkit.tracking.ship import Replayed, replay
from clipkit.tracking.spool import find_spools
from clipkit.tracking.track_run import TrackRun
from clipkit.tracking.track_skipped import TooManySkipped, TrackSkipped

__all__ = [
    "LogPictures",
    "MLflowLogger",
    "RedactingFilter",
    "Replayed",
    "TooManySkipped",
    "TrackRun",
    "TrackSkipped",
    "find_spools",
    "install_redaction",
    "replay",
    "run_of_checkpoint",
]
