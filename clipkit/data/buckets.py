"""Batches of captions of about one length, so that less of a batch is padding; the order stays a pure function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

__all__ = ["BUCKET", "bucketed_order", "caption_lengths"]

BUCKET = 50
"""Steps whose samples are sorted together: a sample moves by no more than these, so that training stays random."""


def bucketed_order(
    order: NDArray[np.int64], lengths: NDArray[np.int64], step: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rearrange an order so that the samples of a step have captions of about one length.

    Of every ``BUCKET`` steps, the samples are sorted by length and dealt out to the steps, which then come in random
    order; within a step, samples keep theirs, so that ranks have equal shares of long ones.

    Args:
        order: (N,) rows.
        lengths: Length of the caption by row.
        step: Samples of an optimiser step, over all ranks and accumulated batches.
        rng: Of the epoch.

    Returns:
        (N,) the same rows; those after the last whole step stay where they are.
    """
    out = order.copy()
    for start in range(0, len(order) // step * step, BUCKET * step):
        steps = min(BUCKET, (len(order) - start) // step)
        places = np.arange(start, start + steps * step)
        by_length = places[np.argsort(lengths[order[places]], kind="stable")].reshape(steps, step)
        out[places] = order[np.sort(by_length[rng.permutation(steps)], axis=1).ravel()]
    return out


def caption_lengths(rows: Dataset, columns: Sequence[str]) -> NDArray[np.int64]:
    """(N,) bytes of each row's longest caption.

    Args:
        rows: The data.
        columns: Of captions, or of lists of them.
    """
    longest = [np.zeros(0, dtype=np.int64)]
    for table in rows.select_columns(list(columns)).with_format("arrow").iter(10_000):
        found = np.zeros(len(table), dtype=np.int64)
        for name in columns:
            column = table[name].combine_chunks()
            where = np.arange(len(table))
            if hasattr(column, "flatten") and column.type.num_fields:
                where, column = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
            sizes = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
            np.maximum.at(found, where, sizes.astype(np.int64))
        longest.append(found)
    return np.concatenate(longest)
