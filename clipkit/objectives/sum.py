"""A weighted sum of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.objectives.base import Objective
from clipkit.types import ArgumentError, ImageTextBatch, ObjectiveOutput

__all__ = ["Sum"]


class Sum(Objective):
    """Several objectives on one model's outputs, each part logged under its name.

    Args:
        objectives: Name to objective.
        weights: Name to weight; 1 where none is given.

    Raises:
        ArgumentError: Where no objective is given, or a weight for none of them.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not objectives:
            raise ArgumentError("objectives", "name at least one objective")
        unknown = sorted(set(weights or {}) - set(objectives))
        if unknown:
            raise ArgumentError("weights", f"{unknown[0]!r} is no objective here; there are {', '.join(objectives)}")
        self.objectives = nn.ModuleDict(objectives)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in objectives}

    def forward(self, outputs: Any, batch: ImageTextBatch) -> ObjectiveOutput:
        """The weighted sum, its parts in the logs."""
        total: Tensor = torch.zeros((), device=batch.image.device)
        logs: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            part: ObjectiveOutput = objective(outputs, batch)
            total = total + self.weights[name] * part.loss
            logs[name] = part.loss.detach()
            logs.update({f"{name}/{key}": value for key, value in part.logs.items()})
        return ObjectiveOutput(total, logs)
