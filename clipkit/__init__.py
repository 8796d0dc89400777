"""clipkit trains, evaluates and ships models that learn vision from captions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.models.saving import load, save

__all__ = ["__version__", "load", "save"]

__version__ = "0.1.0.dev0"

_LAZY = {"load": "clipkit.models.saving", "save": "clipkit.models.saving"}


def __getattr__(name: str) -> Any:
    """Import the face's heavy names when first asked for (PEP 562): `clipkit --help` must not pay for torch."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'clipkit' has no attribute {name!r}")
