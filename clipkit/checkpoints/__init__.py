"""Checkpoints that are whole or not there: one file, or a folder with a file a rank."""

from __future__ import annotations

from clipkit.checkpoints.files import DurableCheckpointIO
from clipkit.checkpoints.folders import consolidate, is_sharded, publish_folder
from clipkit.checkpoints.manifest import Checkpoint, complete_checkpoints, is_damaged, partial_of

__all__ = [
    "Checkpoint",
    "DurableCheckpointIO",
    "complete_checkpoints",
    "consolidate",
    "is_damaged",
    "is_sharded",
    "partial_of",
    "publish_folder",
]
