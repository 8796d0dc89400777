"""Image-text retrieval on the validation set, from what validation computes anyway."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from clipkit.evaluation import Rankings, Retrieval

__all__ = ["ValidationRetrieval"]


class ValidationRetrieval(Callback):
    """Logs ``val/image_to_text_R@1``, ``val/text_to_image_median_rank`` and so on, over the whole validation set.

    The embeddings that ``validation_step`` returns are kept until the epoch ends, N * D float32 a side, and gathered
    across ranks; rows of equal ``batch.concept`` are right answers of each other. With several validation loaders the
    first one counts. Under Lightning's ``EMAWeightAveraging`` these are embeddings of the averaged weights, since
    ``validation_step`` itself runs on them: they are traded in before the first batch and back after the last.

    Args:
        top: The k of ``R@k``.
        chunk: Queries scored at a time; bounds the memory.
        queries: How many captions ``rankings`` holds.

    Attributes:
        rankings: The five best images of some captions, of the last validation; ids are ``batch.position``.
    """

    def __init__(self, top: tuple[int, ...] = (1, 5, 10), chunk: int = 256, queries: int = 16) -> None:
        super().__init__()
        self.metric = Retrieval(top, chunk)
        self.queries = queries
        self.rankings: Rankings | None = None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start anew."""
        self.metric = self.metric.to(pl_module.device)
        self.metric.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the embeddings of a batch.

        Raises:
            TypeError: ``validation_step`` returns nothing with an ``image`` and a ``text``.
        """
        if dataloader_idx:
            return
        if not hasattr(outputs, "image") or not hasattr(outputs, "text"):
            returned = type(outputs).__name__
            raise TypeError(f"ValidationRetrieval needs Embeddings from validation_step, which returned {returned}")
        self.metric.update(outputs.image, outputs.text, batch.position, batch.concept)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log; before checkpoints, which are saved in ``on_validation_end`` or later."""
        figures = {f"val/{name}": value for name, value in self.metric.compute().items()}
        self.rankings = self.metric.rankings(self.queries)
        self.metric.reset()  # lets go of the embeddings while training goes on
        pl_module.log_dict(figures, sync_dist=True, batch_size=1)
