"""What Lightning trains."""

from __future__ import annotations

from clipkit.tasks.contrastive import ContrastiveTask

__all__ = ["ContrastiveTask"]
