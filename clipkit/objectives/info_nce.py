"""InfoNCE as an objective."""

from __future__ import annotations

from typing import Any

from clipkit.distributed import all_logsumexp, gather, rank
from clipkit.functional.contrastive import info_nce_rows
from clipkit.functional.strips import check_tile
from clipkit.objectives.base import Objective
from clipkit.types import ImageTextBatch, ObjectiveOutput

__all__ = ["InfoNCE"]


class InfoNCE(Objective):
    """Symmetric cross-entropy over the batch of all ranks (CLIP, arXiv 2103.00020, section 2.3).

    Rows whose ``batch.concept`` is equal are positives of each other.

    Args:
        first: Field of the model's outputs, (B, D) normalised.
        second: The field it is matched with, (B, D) normalised.
        scale: Field with the exponentiated temperature.
        tile: Rows of the similarity matrix in memory at a time; None for a size that fits.

    Raises:
        ArgumentError: For a tile of no rows.
    """

    def __init__(
        self, first: str = "image", second: str = "text", scale: str = "logit_scale", tile: int | None = None
    ) -> None:
        super().__init__()
        check_tile(tile)
        self.first, self.second, self.scale, self.tile = first, second, scale, tile

    def forward(self, outputs: Any, batch: ImageTextBatch) -> ObjectiveOutput:
        """This rank's share of the loss; the mean over ranks is the loss of the whole batch."""
        first, second = getattr(outputs, self.first), getattr(outputs, self.second)
        scale, concept, offset, join = getattr(outputs, self.scale), batch.concept, 0, None
        if self.gathers():
            second, concept, offset, join = gather(second), gather(concept), rank() * first.shape[0], all_logsumexp
        loss = info_nce_rows(
            first, second, scale, concept=batch.concept, all_concepts=concept, offset=offset, join=join, tile=self.tile
        )
        return ObjectiveOutput(loss, {})
