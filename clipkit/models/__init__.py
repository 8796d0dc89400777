"""Assemblies of towers and heads, and how they are saved."""

from __future__ import annotations

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.saving import build, describe, load, save

__all__ = ["DualEncoder", "build", "describe", "load", "save"]
