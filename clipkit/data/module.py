"""The data module: captioned data into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader

from clipkit.data.arguments import check_lengths, check_numbers, check_stream
from clipkit.data.augment import SampleTransform
from clipkit.data.buckets import caption_lengths
from clipkit.data.collate import CaptionedImages, Collate
from clipkit.data.filters import Filter, filter_rows
from clipkit.data.hashes import concept_ids, fingerprint, hold_out
from clipkit.data.indexed import IndexedTraining
from clipkit.data.loader import Loader
from clipkit.data.mixture import join_rows, mixture_of, read_weights
from clipkit.data.order import SampleKey
from clipkit.data.prepare import check_decode
from clipkit.data.reading import Captioned, Wanted, captioned, first_rows, seen_once, stream_sources
from clipkit.data.samples import SampleMaker
from clipkit.data.sharded import Shards
from clipkit.data.skips import Skipped
from clipkit.data.source import load_rows
from clipkit.data.streamed import StreamOrder
from clipkit.data.streaming import StreamedTraining
from clipkit.data.streams import find_shards, rows_as_shards
from clipkit.distributed import rank, world_size
from clipkit.types import ArgumentError, ImageTextBatch, InputSpec

__all__ = ["CaptionDataModule"]


class CaptionDataModule(pl.LightningDataModule):
    """Captioned images for training and validation.

    What to make of them (pixels, tokenizer, context) is read from the model's ``inputs`` in ``setup``. Order, captions
    and augmentation are pure functions of seed and place, so a run that is resumed with
    ``clipkit.callbacks.SamplePosition`` sees the samples it would have seen. Of data that is read by index, neither the
    number of ranks nor that of workers changes anything; of a stream each worker reads shards of its own.

    Args:
        train: A source: what ``clipkit.data.load_rows`` reads (``emoji``, a file, a folder, a hub id; ``:SPLIT`` may
            follow), or what is streamed: tar shards, anything with an address. Or several of them, every row of each
            once an epoch; or source to weight.
        val: A source for validation, where a data set of several splits gives ``validation`` unless another is named;
            ``null`` for none.
        val_fraction: Share of ``train`` held out for validation, by a hash of each image; not together with ``val``.
        val_limit: Rows of a streamed ``val`` that are read, and kept in memory.
        batch_size: Images per device and step.
        workers: Loader processes.
        seed: Seed of order, captions and augmentation.
        image: The image column; ``null`` takes the first with images. Of tar shards the members, as ``jpg;png``.
        caption: The caption column, several of them, or column to weight; ``null`` takes the first usual one. A row
            with no caption is left out, counted like all that cannot be used.
        language_column: Column that names the language of each caption. It filters the caption columns that have as
            many values as it has in every row.
        languages: Languages to draw captions from; all where none is given.
        templates: Frames for captions, each with one ``{}``.
        filters: What training rows must have: column, operator (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in``,
            ``not in``) and value each, as ``[width, ">=", 200]``.
        concept: Rows with equal ids are positives of each other: ``row`` (none are), ``caption`` or a column.
        distinct_concepts: Whether no concept comes twice in a global batch.
        by_length: Whether the captions of a step are of about one length, so that less of a batch is padding.
        transforms: Sample transforms for training, before the random crop to the model's size.
        extra: Numeric columns to pass on in ``batch.extra``.
        streaming: Whether to stream what could be read by index, such as a hub data set that is not to be copied here.
        epoch_steps: Optimiser steps that make an epoch of a stream.
        window: Rows of a stream that are shuffled together.
        resample: Whether shards are drawn with replacement, which gives no rows their even share.
        exact: Refuse whatever does not give every row its share.
        decode: ``fast`` decodes and resizes plain JPEGs and packed pixels without Pillow, to nearly the same pixels;
            ``reference`` is Pillow throughout. Which sample comes when is the same.

    Attributes:
        train_rows: The training rows; None for a stream.
        val_rows: The validation rows, or None.
        training: What keeps the order and the place.

    Raises:
        ArgumentError: For a missing path or column, unreadable images, an empty side, or a batch larger than the data.
    """

    def __init__(
        self,
        train: str | list[str] | dict[str, float] = "emoji",
        val: str | None = None,
        val_fraction: float = 0.0,
        val_limit: int = 5000,
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
        by_length: bool = False,
        transforms: Sequence[SampleTransform] = (),
        extra: Sequence[str] = (),
        streaming: bool = False,
        epoch_steps: int | None = None,
        window: int = 1000,
        resample: bool = False,
        exact: bool = False,
        decode: str = "fast",
    ) -> None:
        super().__init__()
        check_numbers(val_fraction, val, batch_size, workers, seed)
        check_decode(decode)
        self.batch_size, self.workers, self.streaming, self.by_length = batch_size, workers, streaming, by_length
        self.inputs: InputSpec | None = None
        of_rows = (tuple(extra), tuple(transforms), decode)
        texts = (caption, language_column, languages, templates)
        self.wanted = Wanted(image, *texts, concept, distinct_concepts, *of_rows)
        shares = read_weights(train)
        found = {name: find_shards(name, "train", image, streaming) for name in shares}
        streamed = any(shards is not None for shards in found.values())
        check_stream(streamed, epoch_steps, window, resample, exact, bool(val_fraction), distinct_concepts)
        check_lengths(by_length, streamed, distinct_concepts)
        self.held: Captioned | None = None
        self.train_rows: Dataset | None = None
        self.training: IndexedTraining | StreamedTraining
        if streamed:
            order = StreamOrder(seed, batch_size, rank(), world_size(), max(1, workers), window, resample)
            sources = stream_sources(self._shards(found), shares, self.wanted, filters)
            self.training = StreamedTraining(sources, order, epoch_steps or 0)
        else:
            self.training = self._indexed(shares, filters, val_fraction, seed)
        if val is not None:
            self.held = self._validation(val, val_limit)

    def read(self, source: str, split: str, image: str | None) -> Dataset:
        """Rows from a source, as ``load_rows``; a data module for data of another kind overrides this."""
        return load_rows(source, split, image)

    @property
    def val_rows(self) -> Dataset | None:
        """The validation rows, or None."""
        return self.held.rows if self.held else None

    @property
    def val_left_out(self) -> Sequence[Skipped]:
        """What of the validation set was left out when it was read; what cannot be decoded is known only later."""
        return self.held.left_out if self.held else ()

    @property
    def image(self) -> str:
        """The image column of the rows that can be looked at."""
        return self.held.image if self.held else self.training.recipe.image

    @property
    def position(self) -> int:
        """Samples that the optimiser has consumed, over all ranks: of the present epoch, or of a stream."""
        return self.training.place.position

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell this training set from another."""
        return self.training.fingerprint

    def setup(self, stage: str) -> None:
        """Learn from the model what to make."""
        if self.trainer is None:
            return
        module = self.trainer.lightning_module
        self.inputs = getattr(getattr(module, "model", module), "inputs", None) or self.inputs
        if stage == "fit" and self.trainer.global_step == 0:
            self.training.begin()  # another run; a checkpoint to resume from is read after this

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """An epoch's worth of batches, from the place that is reached."""
        fixed = self.trainer is not None and bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]  # Lightning sets it
        return self.training.loader(self._spec(), self.workers, (rank(), world_size()), self._accumulated, fixed)

    def val_dataloader(self) -> DataLoader[ImageTextBatch] | list[Any]:
        """Whole batches in the order of the rows, dealt out to the ranks; the first caption, the central crop.

        With several ranks the last round is filled up with the first rows, because objectives gather equal batches.
        """
        if self.held is None:
            return []
        spec, rows, step = self._spec(), len(self.held.rows), self.batch_size * world_size()
        numbers = np.arange(rows) if world_size() == 1 else np.resize(np.arange(rows), -(-rows // step) * step)
        keys = [SampleKey(0, i, i) for i in numbers.tolist()]
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        maker = SampleMaker(self.wanted.recipe(self.held, train=False), spec)
        samples, own = CaptionedImages(self.held.rows, maker), batches[rank() :: world_size()]
        return Loader(samples, self.workers, persistent=False, batch_sampler=own, collate_fn=Collate(spec))

    def advance(self, batches: int) -> None:
        """Count global batches that the optimiser has consumed; ``clipkit.callbacks.SamplePosition`` calls it."""
        self.training.advance(batches)

    def figures(self) -> dict[str, float]:
        """What is to be logged of the data: counts of this rank, to be added up over ranks."""
        return self.training.figures()

    def state_dict(self) -> dict[str, Any]:
        """Where in which data the optimiser is; every rank must ask."""
        step = {"samples": self.batch_size * world_size(), "accumulated": self._accumulated}
        return {**self.training.state(), **step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        In the middle of an epoch of other data (or another order of it) there is no going on: the epoch begins anew,
        and a warning says so.

        Raises:
            ArgumentError: For ``batch_size``, where a step takes another number of samples than in the checkpoint: its
                schedule counts steps, and its epochs would not end where they did. For ``workers``, where a stream was
                read by other workers or ranks.
        """
        self._check_step(state_dict["samples"], state_dict["accumulated"])
        self.training.load(state_dict)

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

    def _spec(self) -> InputSpec:
        if self.inputs is None:
            raise RuntimeError("the data module does not know what the model wants: set `.inputs = model.inputs` first")
        on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
        few_shapes = not on_cpu and self.inputs.pad == "longest"
        return self.inputs._replace(pad="multiple_of_8") if few_shapes else self.inputs

    def _shards(self, found: Mapping[str, Shards | None]) -> dict[str, Shards]:
        """All of a mixture as streams, where one is."""
        image = self.wanted.image
        return {
            name: rows_as_shards(self.read(name, "train", image), name, image) if shards is None else shards
            for name, shards in found.items()
        }

    def _indexed(
        self, shares: Mapping[str, float | None], filters: Sequence[Filter], val_fraction: float, seed: int
    ) -> IndexedTraining:
        wanted = self.wanted
        parts = {name: filter_rows(self.read(name, "train", wanted.image), filters) for name in shares}
        found = captioned(join_rows(parts, wanted.image, wanted.caption, wanted.columns), wanted, "caption")
        if val_fraction:
            rows, held = hold_out(found.rows, val_fraction, found.image)
            found, self.held = found._replace(rows=rows), seen_once(found._replace(rows=held))
            if not (len(rows) and len(self.held.rows)):
                side = "validation" if len(rows) else "training"
                raise ArgumentError("val_fraction", f"no row is left for {side}")
        self.train_rows = found.rows
        concepts = concept_ids(found.rows, wanted.concept) if wanted.distinct_concepts else None
        recipe, mixture = wanted.recipe(found), mixture_of(found.rows, shares)
        lengths = caption_lengths(found.rows, list(recipe.choice.columns)) if self.by_length else None
        return IndexedTraining(found.rows, recipe, self.batch_size, seed, concepts, mixture, lengths)

    def _validation(self, val: str, limit: int) -> Captioned:
        wanted = self.wanted._replace(distinct_concepts=False)
        try:
            shards = find_shards(val, "validation", wanted.image, self.streaming)
            read = self.read(val, "validation", wanted.image) if shards is None else None
            rows, left_out = (read, []) if shards is None else first_rows(shards, limit, val)
            held = seen_once(captioned(rows, wanted.like(self.training.recipe, rows), "val"), left_out)
        except ArgumentError as error:
            raise ArgumentError("val", error.message) from error
        train = self.train_rows
        if train is not None and len(held.rows) == len(train) and fingerprint(held.rows) == self.fingerprint:
            raise ArgumentError("val", f"{val!r} is the training set; name another, or hold some out by `val_fraction`")
        return held
