"""The command line."""

from __future__ import annotations

from clipkit.cli.main import main

__all__ = ["main"]
