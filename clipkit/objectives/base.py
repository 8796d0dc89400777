"""What an objective is: outputs and batch to a loss; the only place that gathers across ranks."""

from __future__ import annotations

from typing import Any

from clipkit.layers import Component
from clipkit.types import ImageTextBatch, ObjectiveOutput

__all__ = ["Objective"]


class Objective(Component):
    """Base of all objectives; it names the fields of the model's outputs that it reads."""

    def forward(self, outputs: Any, batch: ImageTextBatch) -> ObjectiveOutput:
        """Loss of one batch.

        Args:
            outputs: The model's named tuple.
            batch: The batch it was made from.
        """
        raise NotImplementedError

    def gathers(self) -> bool:
        """Whether the other ranks' rows count: in training; a validation loss is over each rank's own batch."""
        return self.training
