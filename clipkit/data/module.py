"""The data module: a captioned data set into batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from clipkit.data.augment import SampleTransform
from clipkit.data.collate import CaptionChoice, CaptionedImages, Collate
from clipkit.data.order import EpochBatches, Order, SampleKey
from clipkit.data.source import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    concept_ids,
    fingerprint,
    guess_column,
    hold_out,
    load_rows,
    require_columns,
)
from clipkit.distributed import rank, world_size
from clipkit.types import ArgumentError, ImageTextBatch, InputSpec

__all__ = ["CaptionDataModule"]


class CaptionDataModule(pl.LightningDataModule):
    """Captioned images for training and validation.

    What to make of them (pixels, tokenizer, context) is read from the model's ``inputs`` in ``setup``. Order, captions and
    augmentation are pure functions of (seed, epoch, position), so the number of workers changes nothing.

    Args:
        train: What ``clipkit.data.load_rows`` reads: ``emoji``, a file, a folder, a hub id.
        val: The same for validation; ``null`` for none.
        val_fraction: Share of ``train`` held out for validation, by a hash of each image; not together with ``val``.
        batch_size: Images per device and step.
        workers: Loader processes.
        seed: Seed of order, captions and augmentation.
        image: The image column; ``null`` takes the first usual one there is.
        caption: The caption column, several of them, or column to weight; ``null`` takes the first usual one.
        language_column: Column parallel to the captions that names each one's language.
        languages: Languages to draw captions from; all where none is given.
        templates: Frames for captions, each with one ``{}``.
        concept: Rows with equal ids are positives of each other: ``row`` (none are), ``caption`` or a column.
        distinct_concepts: Whether no concept comes twice in a global batch.
        transforms: Sample transforms for training, before the random crop to the model's size.
        extra: Numeric columns to pass on in ``batch.extra``.

    Attributes:
        train_rows: The training rows.
        val_rows: The validation rows, or None.
        position: Samples of the present epoch that the optimiser has consumed, over all ranks.

    Raises:
        ArgumentError: For a missing path or column, an empty side, or a batch larger than the data.
    """

    def __init__(
        self,
        train: str = "emoji",
        val: str | None = None,
        val_fraction: float = 0.0,
        batch_size: int = 256,
        workers: int = 1,
        seed: int = 0,
        image: str | None = None,
        caption: str | list[str] | dict[str, float] | None = None,
        language_column: str | None = None,
        languages: Sequence[str] = (),
        templates: Sequence[str] = ("{}",),
        concept: str = "row",
        distinct_concepts: bool = False,
        transforms: Sequence[SampleTransform] = (),
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__()
        _check_numbers(val_fraction, val, batch_size, workers)
        _check_templates(templates)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.concept, self.distinct_concepts = concept, distinct_concepts
        self.transforms, self.extra = tuple(transforms), tuple(extra)
        self.inputs: InputSpec | None = None
        self.epoch, self.position = 0, 0
        rows = load_rows(train)
        self.image = guess_column(rows, image, IMAGE_COLUMNS, "image")
        self.choice = CaptionChoice(_weights(rows, caption), language_column, tuple(languages), tuple(templates))
        self._check_columns(rows)
        self.train_rows, self.val_rows = rows, self._validation(val)
        if val_fraction:
            self.train_rows, self.val_rows = hold_out(rows, val_fraction, self.image)
        self._check_sides()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell this training set from another."""
        return fingerprint(self.train_rows)

    def setup(self, stage: str) -> None:
        """Learn from the model what to make."""
        if self.trainer is not None and self.inputs is None:
            model = getattr(self.trainer.lightning_module, "model", None)
            self.inputs = getattr(model, "inputs", None)

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Batches of the epoch that the trainer is in, from ``position`` on."""
        concepts = self._concepts() if self.distinct_concepts else None
        batches = EpochBatches(len(self.train_rows), self.batch_size, self.seed, rank(), world_size(), concepts)
        batches.epoch, batches.start = self.epoch, self.position
        return self._loader(self.train_rows, batches, train=True)

    def val_dataloader(self) -> DataLoader[ImageTextBatch] | list[Any]:
        """Whole batches in the order of the rows, shared out over ranks; the first caption, the central crop."""
        if self.val_rows is None:
            return []
        keys = [SampleKey(0, i, i) for i in range(len(self.val_rows))]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        return self._loader(self.val_rows, batches[rank() :: world_size()], train=False)

    def state_dict(self) -> dict[str, Any]:
        """Where in the data the optimiser is."""
        return {"epoch": self.epoch, "position": self.position, "step_size": self.batch_size * world_size()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ArgumentError: In the middle of an epoch, for another global batch, which would repeat and leave out samples.
        """
        size = self.batch_size * world_size()
        if state_dict["position"] and state_dict["step_size"] != size:
            fit = state_dict["step_size"] // world_size()
            message = f"the checkpoint stands in the middle of an epoch of global batch {state_dict['step_size']}, not {size}"
            raise ArgumentError("batch_size", f"{message}; give {fit} to go on from it")
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]

    def _loader(self, rows: Dataset, batches: Any, train: bool) -> DataLoader[ImageTextBatch]:
        if self.inputs is None:
            raise RuntimeError("the data module does not know what the model wants: set `.inputs = model.inputs` first")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes are the parallelism
        samples = CaptionedImages(
            rows, self.inputs, self.image, self.choice, self.concept, self.extra, self.transforms, self.seed, train
        )
        return DataLoader(
            samples,  # type: ignore[arg-type]  # keyed by SampleKey, collated to a batch
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=Collate(self.inputs),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0 and train,
            worker_init_fn=_outlive_a_signal,
        )

    def _validation(self, val: str | None) -> Dataset | None:
        if val is None:
            return None
        try:
            rows = load_rows(val)
        except ArgumentError as error:
            raise ArgumentError("val", error.message) from error
        require_columns(rows, [self.image, *self.choice.columns], "val")
        return rows

    def _check_columns(self, rows: Dataset) -> None:
        if self.choice.language_column is not None:
            require_columns(rows, [self.choice.language_column], "language_column")
        elif self.choice.languages:
            raise ArgumentError("languages", "name the column that holds each caption's language: `language_column`")
        if self.concept not in ("row", "caption"):
            require_columns(rows, [self.concept], "concept")
        require_columns(rows, self.extra, "extra")
        if self.distinct_concepts and self.concept in ("row", "caption"):
            raise ArgumentError("distinct_concepts", "name the column that tells concepts apart: `concept`")

    def _check_sides(self) -> None:
        if len(self.train_rows) < self.batch_size:
            raise ArgumentError("batch_size", f"{self.batch_size} is more than the {len(self.train_rows)} training rows")
        if self.val_rows is not None and len(self.val_rows) == 0:
            raise ArgumentError("val_fraction", "it holds out no row at all; make it larger")

    def _concepts(self) -> Order:
        return concept_ids(self.train_rows[self.concept])


def _weights(rows: Dataset, caption: str | list[str] | dict[str, float] | None) -> Mapping[str, float]:
    if caption is None or isinstance(caption, str):
        return {guess_column(rows, caption, CAPTION_COLUMNS, "caption"): 1.0}
    weights = {name: 1.0 for name in caption} if isinstance(caption, list) else {k: float(v) for k, v in caption.items()}
    require_columns(rows, weights, "caption")
    if not weights or min(weights.values()) <= 0:
        raise ArgumentError("caption", "give each column a weight above 0")
    return weights


def _check_numbers(val_fraction: float, val: str | None, batch_size: int, workers: int) -> None:
    if not 0 <= val_fraction < 1:
        raise ArgumentError("val_fraction", f"{val_fraction} is not in [0, 1)")
    if val_fraction and val is not None:
        raise ArgumentError("val_fraction", "give this or `val`, not both")
    if batch_size < 1:
        raise ArgumentError("batch_size", f"{batch_size} is less than 1")
    if workers < 0:
        raise ArgumentError("workers", f"{workers} is less than 0")


def _check_templates(templates: Sequence[str]) -> None:
    for template in templates:
        if template.count("{}") != 1:
            raise ArgumentError("templates", f"{template!r} needs exactly one {{}} where the caption goes")
    if not templates:
        raise ArgumentError("templates", 'give at least one, such as "{}"')


def _outlive_a_signal(worker: int) -> None:
    """Leave Ctrl-C and the first SIGTERM, which a whole process group gets, to the process that trains: it needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
