"""The callback that draws what the model finds, what it mistakes, where its embeddings lie and how the loss went."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from clipkit.data.columns import IMAGE_COLUMNS, guess_column
from clipkit.data.source import load_rows
from clipkit.steps import is_logged
from clipkit.tracking.charts import curves, embedding_map
from clipkit.tracking.examine import Seen, distinct, evenly, examine, most_made, nearest
from clipkit.tracking.pictures import Confusion, confusions, retrieval_gallery
from clipkit.tracking.run_folder import store
from clipkit.types import ArgumentError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["LogPictures"]

log = logging.getLogger(__name__)

_LABEL_COLUMNS = ("name", "label", "caption", "text", "title", "captions")
_FOUND, _SHOWN_CONFUSIONS, _MAPPED = 5, 10, 200
_MOST_POINTS = 2000


class LogPictures(Callback):
    """Four PNGs at the end of ``fit``, and of every few epochs if asked: gallery, confusions, embedding map, curves.

    They go into ``pictures/`` in the run's folder and to every logger that takes artifacts. Beside the gallery lies
    ``gallery.json``: for each query its row, its text and the rows found, best first, among which candidates. Every
    rank takes part, for sharded models' sake; rank zero draws. A failure here is a warning.

    Args:
        rows: What to look at, as in ``data.train`` (``emoji/cells``); ``null`` takes the data module's validation rows,
            or its training rows.
        every_n_epochs: Draw after every so many epochs too; ``null`` for only at the end.
        queries: Texts in the gallery.
        max_rows: At most so many rows, evenly chosen, are candidates.
        image: Image column; ``null`` takes the first usual one.
        label: Column of the text and class of a row; ``null`` takes the first usual one. Of several captions the first.
        batch_size: Images encoded at a time.

    Raises:
        ArgumentError: For rows or columns that are not there.
    """

    def __init__(
        self,
        rows: str | None = None,
        every_n_epochs: int | None = None,
        queries: int = 8,
        max_rows: int = 1000,
        image: str | None = None,
        label: str | None = None,
        batch_size: int = 128,
    ) -> None:
        self.rows, self.every_n_epochs, self.queries, self.max_rows = rows, every_n_epochs, queries, max_rows
        self.image, self.label, self.batch_size = image, label, batch_size
        self.history: dict[str, list[tuple[int, float]]] = {"train/loss": [], "val/loss": [], "train/logit_scale": []}
        self._table: Dataset | None = None
        if rows is not None:
            try:
                self._use(load_rows(rows))
            except ArgumentError as error:
                raise ArgumentError("rows" if error.argument == "train" else error.argument, error.message) from error

    @property
    def state_key(self) -> str:
        """Two of these on different rows keep their curves apart."""
        return self._generate_state_key(rows=self.rows)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the data module's rows where none were named."""
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        if self._table is None and stage == "fit" and data is not None:
            rows = getattr(data, "val_rows", None)
            rows = rows if rows is not None else getattr(data, "train_rows", None)
            if rows is not None:
                self.image = self.image or getattr(data, "image", None)
                self._use(rows)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note loss and scale as often as the loggers are told."""
        if is_logged(trainer, trainer.global_step):
            self._note(trainer, "train/loss", "train/logit_scale")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the validation loss."""
        if not trainer.sanity_checking:
            self._note(trainer, "val/loss")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw at the chosen interval."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs is not None and epoch % self.every_n_epochs == 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            self._draw(trainer, pl_module, f"pictures/epoch_{epoch}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the final model, while it is still on its device."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            self._draw(trainer, pl_module, "pictures")

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"history": {name: [list(point) for point in points] for name, points in self.history.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of the run that is resumed."""
        for name, points in state_dict["history"].items():
            self.history[name] = [(int(step), float(value)) for step, value in points]

    def _use(self, rows: Dataset) -> None:
        self.image = guess_column(rows, self.image, IMAGE_COLUMNS, "image")
        self.label = guess_column(rows, self.label, _LABEL_COLUMNS, "label")
        self._table = rows

    def _note(self, trainer: pl.Trainer, *names: str) -> None:
        for name in names:
            value = trainer.callback_metrics.get(name, trainer.callback_metrics.get(f"{name}_step"))
            if value is not None:
                points = self.history[name]
                points.append((trainer.global_step, float(value)))
                if len(points) > _MOST_POINTS:  # every other one is still a curve
                    del points[1::2]

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: str) -> None:
        files: dict[str, bytes | str] = {}
        try:
            loss = {name: self.history[name] for name in ("train/loss", "val/loss") if self.history[name]}
            files["curves.png"] = curves(loss, self.history["train/logit_scale"])
            if self._table is not None and isinstance(pl_module.model, nn.Module):
                image, label = str(self.image), str(self.label)
                seen = examine(pl_module.model, self._table, image, label, self.max_rows, self.batch_size)
                if trainer.is_global_zero:
                    files |= self._pictures(seen, self._table, image)
        except Exception as error:  # a picture that cannot be drawn is no reason to lose a run
            log.warning("some pictures were not drawn: %s: %s", type(error).__name__, error)
        if trainer.is_global_zero:
            for name, content in files.items():
                store(trainer, f"{folder}/{name}", content)

    def _pictures(self, seen: Seen, rows: Dataset, image: str) -> dict[str, bytes | str]:
        files: dict[str, bytes | str] = {}
        if seen.pairs is not None:
            files |= self._gallery(seen, rows, image)
            few = evenly(len(seen.ids), _MAPPED)
            shown = [rows[seen.ids[i]][image] for i in few]
            names = [seen.labels[i] for i in few]
            files["embeddings.png"] = embedding_map(seen.pairs[0][few], seen.pairs[1][few], names, shown)
        if seen.scores is not None:
            files["confusions.png"] = _confusions(seen, rows, image)
        return files

    def _gallery(self, seen: Seen, rows: Dataset, image: str) -> dict[str, bytes | str]:
        if seen.pairs is None:
            return {}
        queries = distinct(seen.labels, self.queries)
        top, scores = nearest(seen.pairs[1][queries], seen.pairs[0], _FOUND)
        texts = [seen.labels[query] for query in queries]
        right = [[seen.labels[i] == text for i in found] for text, found in zip(texts, top, strict=True)]
        pictures = {i: rows[seen.ids[i]][image] for i in {i for found in top for i in found}}
        title = f"Text to image: the nearest of {len(seen.ids)} pictures"
        entries = [
            {"row": seen.ids[query], "text": text, "top": [seen.ids[i] for i in found], "scores": values, "right": good}
            for query, text, found, values, good in zip(queries, texts, top, scores, right, strict=True)
        ]
        listing = {"rows": self.rows, "candidates": seen.ids, "queries": entries}
        return {
            "gallery.png": retrieval_gallery(texts, pictures, top, right, seen.labels, title),
            "gallery.json": json.dumps(listing, ensure_ascii=False),
        }


def _confusions(seen: Seen, rows: Dataset, image: str) -> bytes:
    if seen.scores is None:
        raise ValueError("confusions need class scores")
    index = {name: i for i, name in enumerate(seen.classes)}
    true = torch.tensor([index[label] for label in seen.labels])
    found = []
    for label, taken_for, examples in most_made(seen.scores, true, _SHOWN_CONFUSIONS):
        example, other = (rows[seen.ids[i]][image] for i in (examples[0], seen.labels.index(seen.classes[taken_for])))
        total = int((true == label).sum())
        found.append(Confusion(seen.classes[label], seen.classes[taken_for], len(examples), total, example, other))
    correct = int((seen.scores.argmax(1) == true).sum())
    return confusions(found, below=f"{correct} of {len(true)} pictures recognised among {len(seen.classes)} names")
