"""What a run tells its tracker, as plain JSON records, in the form that MLflow accepts: pure functions.

A record is a dict with a ``kind``: ``metrics`` (step, time in ms, values), ``params`` and ``tags`` (values),
``artifact`` (file, folder) or ``status`` (status, time in ms).
"""

from __future__ import annotations

import math
import posixpath
import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

__all__ = ["Record", "clean_name", "cut", "finite_values", "flatten", "metric_values", "renamed"]

Record = dict[str, Any]

NAME_LIMIT = 250
PARAM_LIMIT = 6000
TAG_LIMIT = 8000
_NOT_IN_NAMES = re.compile(r"[^/\w.\- ]")


def clean_name(name: str) -> str:
    """A metric, parameter or tag name as MLflow takes it: ``val/R@1`` becomes ``val/R_at_1``."""
    clean = _NOT_IN_NAMES.sub("_", name.replace("@", "_at_"))
    # MLflow refuses names that are not normal paths, such as "a//b" or "../a"
    parts = [part for part in clean.split("/") if part.strip(".")]
    return (posixpath.join(*parts) if parts else "_")[:NAME_LIMIT]


def cut(text: str, limit: int, whole: str = "config.yaml") -> str:
    """A value that fits the tracker's limit; one that does not ends in a mark that says where the whole of it is."""
    if len(text) <= limit:
        return text
    mark = f" ... [cut: {len(text)} characters, the whole is in {whole}]"
    return text[: limit - len(mark)] + mark


def flatten(config: Mapping[str, Any] | Namespace) -> dict[str, str]:
    """A nested configuration as dotted parameters: ``{"model": {"lr": 0.1}}`` becomes ``{"model.lr": "0.1"}``.

    Lists of plain values stay one parameter; lists of mappings get the position as a part of the key.
    """
    flat: dict[str, str] = {}
    for key, value in _leaves("", vars(config) if isinstance(config, Namespace) else config):
        flat[clean_name(key)] = cut(str(value), PARAM_LIMIT)
    return flat


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by clean name; tensors and NumPy scalars are converted, what is no number is left out."""
    values = {}
    for name, value in metrics.items():
        try:
            values[clean_name(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):  # text, or a tensor of several elements
            continue
    return values


def finite_values(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """MLflow stores an infinity as 1.8e308, which flattens every chart: it goes in as NaN, and is named.

    Returns:
        The values with infinities as NaN, and ``inf`` or ``-inf`` or ``nan`` by the names of those that are not finite.
    """
    odd = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}, odd


def renamed(flat: Mapping[str, str], earlier: Mapping[str, str], attempt: int) -> tuple[dict[str, str], list[str]]:
    """Parameters to log for a run that has some already; MLflow refuses to change a value.

    Args:
        flat: Parameters of now.
        earlier: The last value of each key that was logged before.
        attempt: How often the run has been resumed, at least 1.

    Returns:
        The new ones, a changed one as ``key.resumed_<attempt>``; and the keys that changed.
    """
    changed = [key for key, value in flat.items() if earlier.get(key, value) != value]
    fresh = {key: value for key, value in flat.items() if key not in earlier}
    fresh |= {f"{key[: NAME_LIMIT - 12]}.resumed_{attempt}": flat[key] for key in changed}
    return fresh, changed


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping) and value:
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | Namespace) for item in value):
        parts = [(str(index), item) for index, item in enumerate(value)]
    else:
        return [(prefix, value)] if prefix else []
    return [leaf for key, item in parts for leaf in _leaves(f"{prefix}.{key}" if prefix else key, item)]
