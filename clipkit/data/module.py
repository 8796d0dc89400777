"""The data module: a captioned data set into batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from clipkit.data.arguments import check_columns, check_images, check_numbers
from clipkit.data.augment import SampleTransform
from clipkit.data.captions import choose_captions, has_caption
from clipkit.data.collate import CaptionedImages, Collate
from clipkit.data.filters import Filter, filter_rows
from clipkit.data.hashes import concept_ids, fingerprint, hold_out
from clipkit.data.order import EpochBatches, Place, SampleKey
from clipkit.data.prepare import check_decode
from clipkit.data.source import image_column, load_rows, require_columns
from clipkit.distributed import rank, world_size
from clipkit.types import ArgumentError, ImageTextBatch, InputSpec

__all__ = ["CaptionDataModule"]


class CaptionDataModule(pl.LightningDataModule):
    """Captioned images for training and validation.

    What to make of them (pixels, tokenizer, context) is read from the model's ``inputs`` in ``setup``. Order, captions
    and augmentation are pure functions of (seed, epoch, position), so the number of workers changes nothing, and a run
    that is resumed with ``clipkit.callbacks.SamplePosition`` sees the samples it would have seen.

    Args:
        train: What ``clipkit.data.load_rows`` reads: ``emoji``, a file, a folder, a hub id; ``:SPLIT`` may follow.
        val: The same for validation, where a data set of several splits gives ``validation`` unless another is named;
            ``null`` for none.
        val_fraction: Share of ``train`` held out for validation, by a hash of each image; not together with ``val``.
        batch_size: Images per device and step.
        workers: Loader processes.
        seed: Seed of order, captions and augmentation.
        image: The image column; ``null`` takes the first with images.
        caption: The caption column, several of them, or column to weight; ``null`` takes the first usual one. Rows with
            no caption are left out.
        language_column: Column that names the language of each caption. It filters the caption columns that have as
            many values as it has in every row.
        languages: Languages to draw captions from; all where none is given.
        templates: Frames for captions, each with one ``{}``.
        filters: What training rows must have: column, operator (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in``,
            ``not in``) and value each, as ``[width, ">=", 200]``.
        concept: Rows with equal ids are positives of each other: ``row`` (none are), ``caption`` or a column.
        distinct_concepts: Whether no concept comes twice in a global batch.
        transforms: Sample transforms for training, before the random crop to the model's size.
        extra: Numeric columns to pass on in ``batch.extra``.
        decode: ``fast`` decodes and resizes plain JPEGs and packed pixels without Pillow, to the same pixels but for
            rounding; ``reference`` is Pillow throughout. Which sample comes when is the same.

    Attributes:
        train_rows: The training rows.
        val_rows: The validation rows, or None.

    Raises:
        ArgumentError: For a missing path or column, unreadable images, an empty side, or a batch larger than the data.
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
        filters: Sequence[Filter] = (),
        concept: str = "row",
        distinct_concepts: bool = False,
        transforms: Sequence[SampleTransform] = (),
        extra: Sequence[str] = (),
        decode: str = "fast",
    ) -> None:
        super().__init__()
        check_numbers(val_fraction, val, batch_size, workers, seed)
        check_decode(decode)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.concept, self.distinct_concepts = concept, distinct_concepts
        self.transforms, self.extra, self.decode = tuple(transforms), tuple(extra), decode
        self.inputs: InputSpec | None = None
        self.place = Place()
        rows = filter_rows(self.read(train, "train", image), filters)
        self.image = image_column(rows, image)
        self.choice = choose_captions(rows, caption, language_column, languages, templates)
        check_columns(rows, concept, distinct_concepts, self.extra)
        check_images(rows, self.image, "image")
        self.train_rows, self.val_rows = self._captioned(rows, "caption"), self._validation(val)
        if val_fraction:
            self.train_rows, self.val_rows = hold_out(self.train_rows, val_fraction, self.image)
        self._check_sides(val)
        self._batches = self._order(rank=0, world_size=1)

    def read(self, source: str, split: str, image: str | None) -> Dataset:
        """Rows from a source, as ``load_rows``; a data module for data of another kind overrides this."""
        return load_rows(source, split, image)

    @property
    def position(self) -> int:
        """Samples of the present epoch that the optimiser has consumed, over all ranks."""
        return self.place.position

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell this training set from another."""
        return fingerprint(self.train_rows)

    def setup(self, stage: str) -> None:
        """Learn from the model what to make."""
        if self.trainer is None:
            return
        module = self.trainer.lightning_module
        self.inputs = getattr(getattr(module, "model", module), "inputs", None) or self.inputs
        if stage == "fit" and self.trainer.global_step == 0:
            self.place = Place()  # another run; a checkpoint to resume from is read after this

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """An epoch's worth of batches, from the place that is reached."""
        self._batches = self._order(rank(), world_size())
        return self._loader(self.train_rows, self._batches, train=True)

    def val_dataloader(self) -> DataLoader[ImageTextBatch] | list[Any]:
        """Whole batches in the order of the rows, dealt out to the ranks; the first caption, the central crop.

        With several ranks the last round is filled up with the first rows, because objectives gather equal batches.
        """
        if self.val_rows is None:
            return []
        rows, step = len(self.val_rows), self.batch_size * world_size()
        numbers = np.arange(rows) if world_size() == 1 else np.resize(np.arange(rows), -(-rows // step) * step)
        keys = [SampleKey(0, i, i) for i in numbers.tolist()]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        return self._loader(self.val_rows, batches[rank() :: world_size()], train=False)

    def advance(self, batches: int) -> None:
        """Count global batches that the optimiser has consumed; ``clipkit.callbacks.SamplePosition`` calls it."""
        self.place = self._batches.after(self.place, batches)

    def state_dict(self) -> dict[str, Any]:
        """Where in which data the optimiser is."""
        step = {"samples": self.batch_size * world_size(), "accumulated": self._accumulated}
        return {**self.place._asdict(), **step, **self._data()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        In the middle of an epoch of other data (or another order of it) there is no going on: the epoch begins anew,
        and a warning says so.

        Raises:
            ArgumentError: For ``batch_size``, where a step takes another number of samples than in the checkpoint: its
                schedule counts steps, and its epochs would not end where they did.
        """
        self._check_step(state_dict["samples"], state_dict["accumulated"])
        self.place = Place(state_dict["epoch"], state_dict["position"])
        changed = [name for name, value in self._data().items() if state_dict[name] != value]
        if self.place.position and changed:
            self.place = Place(self.place.epoch)
            what = ", ".join(changed)
            rank_zero_warn(f"the checkpoint stands within an epoch of other data ({what} differs): it begins anew")

    @property
    def _accumulated(self) -> int:
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def _check_step(self, samples: int, accumulated: int) -> None:
        now, world = self.batch_size * world_size(), world_size()
        if (now, self._accumulated) != (samples, accumulated):
            what = f"a step takes {now} samples x {self._accumulated}, but {samples} x {accumulated} in the checkpoint"
            batch = "no batch size on these devices" if samples % world else f"{samples // world}"
            raise ArgumentError(
                "batch_size", f"{what}; {batch} with trainer.accumulate_grad_batches={accumulated} restores it"
            )

    def _data(self) -> dict[str, Any]:
        return {"data": self.fingerprint, "seed": self.seed, "distinct_concepts": self.distinct_concepts}

    def _order(self, rank: int, world_size: int) -> EpochBatches:
        concepts = concept_ids(self.train_rows, self.concept) if self.distinct_concepts else None
        rows = len(self.train_rows)
        size, accumulated = self.batch_size, self._accumulated
        return EpochBatches(rows, size, self.seed, rank, world_size, concepts, self._start, accumulated)

    def _start(self) -> Place:
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]  # Lightning sets it
            return Place(1)  # the same few batches in each epoch
        return self.place

    def _loader(self, rows: Dataset, batches: Any, train: bool) -> DataLoader[ImageTextBatch]:
        if self.inputs is None:
            raise RuntimeError("the data module does not know what the model wants: set `.inputs = model.inputs` first")
        if self.workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are the parallelism
        how = self.concept, self.extra, self.transforms, self.seed, train, self.decode
        samples = CaptionedImages(rows, self.inputs, self.image, self.choice, *how)
        return _Loader(
            samples,  # type: ignore[arg-type]  # keyed by SampleKey, collated to a batch
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=Collate(self.inputs),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it draws from torch's own, which a checkpoint restores
            persistent_workers=self.workers > 0 and train,
            worker_init_fn=_outlive_a_signal,
        )

    def _validation(self, val: str | None) -> Dataset | None:
        if val is None:
            return None
        try:
            rows = self.read(val, "validation", self.image)
            image_column(rows, self.image)
            choose_captions(rows, self.choice.columns)
            require_columns(rows, self.choice.language_of.values(), "val")
            check_columns(rows, self.concept, False, self.extra)
            check_images(rows, self.image, "val")
        except ArgumentError as error:
            raise ArgumentError("val", error.message) from error
        return self._captioned(rows, "val")

    def _captioned(self, rows: Dataset, argument: str) -> Dataset:
        captioned = has_caption(rows, self.choice)
        if captioned.all():
            return rows
        if not captioned.any():
            raise ArgumentError(argument, f"no row has a caption in {', '.join(self.choice.columns)}")
        rank_zero_warn(f"{(~captioned).sum()} of {len(rows)} rows have no caption and are left out")
        return rows.select(np.flatnonzero(captioned))

    def _check_sides(self, val: str | None) -> None:
        if self.val_rows is None:
            return
        if not len(self.val_rows) or not len(self.train_rows):
            side = "validation" if not len(self.val_rows) else "training"
            raise ArgumentError("val" if val else "val_fraction", f"no row is left for {side}")
        if val and len(self.val_rows) == len(self.train_rows) and fingerprint(self.val_rows) == self.fingerprint:
            raise ArgumentError("val", f"{val!r} is the training set; name another, or hold some out by `val_fraction`")


class _Loader(DataLoader[ImageTextBatch]):
    """A loader that asks its sampler at the first batch, not when Lightning makes the iterator.

    Lightning makes it before it names the epoch and, where a strategy restores late (FSDP), before it restores the
    place; workers would by then have begun with the wrong samples (lightning 21938, 20550).
    """

    def __iter__(self) -> Iterator[ImageTextBatch]:  # type: ignore[override]  # all that the base class promises
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module keeps the place. Without this Lightning warns that the loader cannot resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""


def _outlive_a_signal(worker: int) -> None:
    """Leave Ctrl-C and the first SIGTERM, which a whole group gets, to the process that trains: it needs batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
