"""The pairwise sigmoid loss as an objective."""

from __future__ import annotations

from typing import Any

from clipkit.distributed import gather, rank
from clipkit.functional.sigmoid import sigmoid_loss_rows
from clipkit.functional.strips import check_tile
from clipkit.objectives.base import Objective
from clipkit.types import ImageTextBatch, ObjectiveOutput

__all__ = ["Sigmoid"]


class Sigmoid(Objective):
    """Every pair is a yes or no of its own (SigLIP, arXiv 2303.15343, section 3.2); needs a head with a bias.

    Args:
        first: Field of the model's outputs, (B, D) normalised.
        second: The field it is matched with, (B, D) normalised.
        scale: Field with the exponentiated temperature.
        bias: Field with the bias on the logits.
        tile: Rows of the similarity matrix in memory at a time; None for a size that fits.

    Raises:
        ArgumentError: For a tile of no rows.
    """

    def __init__(
        self,
        first: str = "image",
        second: str = "text",
        scale: str = "logit_scale",
        bias: str = "logit_bias",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_tile(tile)
        self.first, self.second, self.scale, self.bias, self.tile = first, second, scale, bias, tile

    def forward(self, outputs: Any, batch: ImageTextBatch) -> ObjectiveOutput:
        """This rank's share of the loss; the mean over ranks is the loss of the whole batch.

        Raises:
            ValueError: Where the outputs have no bias.
        """
        first, second = getattr(outputs, self.first), getattr(outputs, self.second)
        scale, bias = getattr(outputs, self.scale), getattr(outputs, self.bias)
        if bias is None:
            raise ValueError("Sigmoid needs a bias: give the head `init_logit_bias` (-10 in the paper)")
        concept, offset = batch.concept, 0
        if self.gathers():
            second, concept, offset = gather(second), gather(concept), rank() * first.shape[0]
        loss = sigmoid_loss_rows(
            first, second, scale, bias, concept=batch.concept, all_concepts=concept, offset=offset, tile=self.tile
        )
        return ObjectiveOutput(loss, {})
