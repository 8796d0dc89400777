"""The MLflow logger, its pictures, and the callbacks that feed it."""

from __future__ import annotations

from clipkit.tracking.comparison import Line, compared_curves
from clipkit.tracking.history import History, Told, read_history
from clipkit.tracking.log_pictures import LogPictures
from clipkit.tracking.logger import MLflowLogger
from clipkit.tracking.redact import RedactingFilter, install_redaction
from clipkit.tracking.runs import run_of_checkpoint
from clipkit.tracking.ship import Replayed, replay
from clipkit.tracking.spool import find_spools
from clipkit.tracking.track_run import TrackRun
from clipkit.tracking.track_skipped import TooManySkipped, TrackSkipped
from clipkit.tracking.track_validation import TrackValidation

__all__ = [
    "History",
    "Line",
    "LogPictures",
    "MLflowLogger",
    "RedactingFilter",
    "Replayed",
    "Told",
    "TooManySkipped",
    "TrackRun",
    "TrackSkipped",
    "TrackValidation",
    "compared_curves",
    "find_spools",
    "install_redaction",
    "read_history",
    "replay",
    "run_of_checkpoint",
]
