"""Several sources as one: their weights, their columns brought together, the order in which they take turns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from clipkit.data.captions import choose_captions
from clipkit.data.columns import image_column, stored
from clipkit.data.order import sample_rng
from clipkit.data.remote import public_name
from clipkit.types import ArgumentError

__all__ = ["Mixture", "join_rows", "metric_names", "mixed_order", "mixture_of", "read_weights", "turns"]

CaptionOption = str | Sequence[str] | Mapping[str, float] | None
GROUP = "__group__"
"""Column of a joined set: which source a row is from."""


class Mixture(NamedTuple):
    """Rows of several sources: the sources' names, their shares of what is drawn, and each row's source (N,)."""

    names: tuple[str, ...]
    shares: tuple[float, ...]
    group: NDArray[np.int64]

    @property
    def metrics(self) -> list[str]:
        """What the samples of each source are logged as."""
        return metric_names(self.names)


def metric_names(sources: Sequence[str]) -> list[str]:
    """What the samples of each source are logged as, no two alike.

    Trackers take few characters beside letters and digits, and short names; sources that would be called the same are
    numbered, as in ``photos``, ``photos-2``.
    """
    short = [re.sub(r"[^\w./-]+", "_", public_name(source))[-80:].strip("_/") for source in sources]
    names: list[str] = []
    for name in short:
        tried = (f"data/from_{name}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
        names.append(next(one for one in tried if one not in names))
    return names


def mixture_of(rows: Dataset, shares: Mapping[str, float | None]) -> Mixture | None:
    """The mixture that joined rows are to be drawn as; None where no weights are given."""
    given = [share for share in shares.values() if share is not None]
    if len(given) < 2:
        return None
    return Mixture(tuple(shares), tuple(given), np.asarray(stored(rows, GROUP).to_numpy(), dtype=np.int64))


def read_weights(train: str | Sequence[str] | Mapping[str, float]) -> dict[str, float | None]:
    """Source to its share of the samples, which add up to 1; to None where no weights are given.

    Raises:
        ArgumentError: For ``train``: no source, one that comes twice, or a weight that is not above 0.
    """
    if isinstance(train, str):
        return {train: None}
    if not train:
        raise ArgumentError("train", "give at least one source")
    if not isinstance(train, Mapping):
        twice = next((name for name in train if list(train).count(name) > 1), None)
        if twice is not None:
            raise ArgumentError(
                "train", f"{twice!r} is given twice; to draw it more often give weights, as {{{twice}: 2}}"
            )
        return dict.fromkeys(train)
    for name, weight in train.items():
        if not weight > 0 or weight == float("inf"):
            raise ArgumentError("train", f"the weight of {name!r} is {weight}; give a number above 0")
    total = sum(train.values())
    return {name: weight / total for name, weight in train.items()}


def join_rows(parts: Mapping[str, Dataset], image: str | None, caption: CaptionOption, keep: Sequence[str]) -> Dataset:
    """The rows of all parts, one after the other, with the column names of the first.

    Args:
        parts: Source to its rows.
        image: The image column; None for the first of each part.
        caption: The caption columns; None for the first usual one of each part.
        keep: Further columns that all parts must have.

    Raises:
        ArgumentError: For the argument at fault, naming the part.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    names: list[list[str]] = []
    for part, rows in parts.items():
        try:
            names.append([image_column(rows, image), *choose_captions(rows, caption).columns])
        except ArgumentError as error:
            raise ArgumentError(error.argument, f"in {part!r}: {error.message}") from error
    joined: list[Dataset] = []
    for number, (own, (part, rows)) in enumerate(zip(names, parts.items(), strict=True)):
        further = [name for name in keep if name in rows.column_names and name not in own]
        rows = rows.select_columns([*own, *further]).rename_columns(dict(zip(own, names[0], strict=True)))
        kind = {name: rows.features[name] for name in names[0][1:]}
        first = {name: joined[0].features[name] for name in kind} if joined else kind
        if kind != first:
            raise ArgumentError("caption", f"{part!r} holds {kind} where {next(iter(parts))!r} holds {first}")
        joined.append(rows.add_column(GROUP, np.full(len(rows), number)))
    return datasets.concatenate_datasets(joined)


def turns(shares: Sequence[float], count: int) -> NDArray[np.int64]:
    """(count,) which source comes when: after any number of draws each has had its share, to within one or so."""
    due = [(np.arange(int(count * share) + 2) + 0.5) / share for share in shares]
    source = np.repeat(np.arange(len(shares)), [len(one) for one in due])
    return source[np.argsort(np.concatenate(due), kind="stable")][:count]


def mixed_order(mixture: Mixture, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,) rows of an epoch: as many draws as there are rows; each source goes through its own again and again."""
    source_of = turns(mixture.shares, len(mixture.group))
    order = np.empty_like(source_of)
    for source in range(len(mixture.shares)):
        rows, places = np.flatnonzero(mixture.group == source), np.flatnonzero(source_of == source)
        draws = epoch * len(places) + np.arange(len(places))
        first, beyond = epoch * len(places) // len(rows), -(-(epoch + 1) * len(places) // len(rows))
        passes = [rows[:0], *(sample_rng(seed, source, turn).permutation(rows) for turn in range(first, beyond))]
        order[places] = np.concatenate(passes)[draws - first * len(rows)]
    return order
