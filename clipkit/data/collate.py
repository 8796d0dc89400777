"""Rows to samples to batches; all of it runs in the loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from clipkit.data.order import SampleKey, sample_rng
from clipkit.data.rows import mapped, read_rows
from clipkit.data.samples import Sample, SampleMaker
from clipkit.data.skips import Skipped, TooManyUnusable, pack_skips, skipped
from clipkit.tokens import Tokenizer
from clipkit.types import ImageTextBatch, InputSpec

__all__ = ["CaptionedImages", "Collate"]

MOST_CHARACTERS = 10_000
"""Of a caption; tokenizing a megabyte to keep its first 77 tokens takes a second."""
ATTEMPTS = 20
"""Rows tried for one place of a batch; where so many in a row fail, something else is wrong."""


class CaptionedImages(TorchDataset[Sample]):
    """Samples by :class:`SampleKey`; the same key gives the same sample in any process.

    In the place of a row that cannot be read comes another one, chosen by the key alone: batches stay whole, ranks stay
    equal, and a resumed run sees the same.

    Args:
        rows: The data set.
        maker: Makes a sample of a row; in training with what it draws, else without.
        seed: Seed of every draw.
    """

    def __init__(self, rows: Dataset, maker: SampleMaker, seed: int = 0) -> None:
        self.maker, self.recipe, self.seed = maker, maker.recipe, seed
        self.rows = mapped(rows, maker.recipe.columns, maker.recipe.image)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Sample]:
        """A batch of samples, read in one go.

        Raises:
            TooManyUnusable: Where ``ATTEMPTS`` rows in a row cannot be used.
        """
        try:
            rows = read_rows(self.rows, [key.row for key in keys], self.recipe.image)
        except Exception:  # text that is not UTF-8, for one: row by row, to find which
            return [self._sample(None, key) for key in keys]
        return [self._sample(row, key) for row, key in zip(rows, keys, strict=True)]

    def __getitem__(self, key: SampleKey) -> Sample:
        """One sample."""
        return self.__getitems__([key])[0]

    def _sample(self, row: dict[str, Any] | None, key: SampleKey) -> Sample:
        left_out: list[Skipped] = []
        number = key.row
        while len(left_out) < ATTEMPTS:
            rng = self._rng(key, len(left_out))
            try:
                row = read_rows(self.rows, [number], self.recipe.image)[0] if row is None else row
                sample = self.maker.make(row, number, key.position, rng)
            except Exception as error:  # decoders raise anything
                left_out.append(self._skipped(row or {}, number, error))
                row, number = None, self._instead(key, len(left_out))
            else:
                return sample._replace(skipped=tuple(left_out))
        last = left_out[-1]
        where = f"the last is {last.key} of {last.source}: {last.message}"
        raise TooManyUnusable(f"{ATTEMPTS} rows in a row cannot be used; {where}")

    def _rng(self, key: SampleKey, attempt: int) -> np.random.Generator | None:
        again = (attempt,) if attempt else ()
        return sample_rng(self.seed, key.epoch, key.position, *again) if self.recipe.train else None

    def _instead(self, key: SampleKey, attempt: int) -> int:
        """Another row: drawn in training, in validation one of those that follow."""
        if not self.recipe.train:
            return (key.row + attempt) % len(self.rows)
        return int(sample_rng(self.seed, key.epoch, key.position, attempt, 0).integers(len(self.rows)))

    def _skipped(self, row: dict[str, Any], number: int, error: Exception) -> Skipped:
        image = row.get(self.recipe.image) or {}
        rows = f"the {'training' if self.recipe.train else 'validation'} rows"
        return skipped(image.get("path") or rows, f"row {number}", error, image)


class Collate:
    """Samples to an :class:`ImageTextBatch`, with one call of the tokenizer.

    Args:
        spec: What the model wants.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.tokenizer = Tokenizer(spec.tokenizer, spec.context_length, spec.pad)

    def __call__(self, samples: Sequence[Sample]) -> ImageTextBatch:
        """B samples to a batch; ``extra["truncated"]`` (B,) says whose caption was cut.

        ``extra["skipped"]`` (B, L) says what was left out for each; see ``unpack_skips``.
        """
        tokens, mask, cut = self.tokenizer.encode([sample.caption[:MOST_CHARACTERS] for sample in samples])
        extra = {name: torch.as_tensor([sample.extra[name] for sample in samples]) for name in samples[0].extra}
        return ImageTextBatch(
            # Channels last, as they come: on the device the vision tower turns them faster than a worker would.
            # In a worker default_collate stacks into shared memory at once, which saves a copy.
            image=default_collate([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2),
            tokens=tokens,
            mask=mask,
            concept=torch.tensor([sample.concept for sample in samples], dtype=torch.int64),
            position=torch.tensor([sample.position for sample in samples], dtype=torch.int64),
            extra={**extra, "truncated": cut, "skipped": pack_skips([sample.skipped for sample in samples])},
        )
