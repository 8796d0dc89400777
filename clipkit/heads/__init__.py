"""Heads that join what the towers make."""

from __future__ import annotations

from clipkit.heads.contrastive import ContrastiveHead, Projection

__all__ = ["ContrastiveHead", "Projection"]
