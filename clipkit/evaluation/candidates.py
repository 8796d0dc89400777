"""Which classes a row may be taken for, and which one it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from clipkit.evaluation.base import open_rows
from clipkit.types import ArgumentError

__all__ = ["Candidates", "find_candidates"]


class Candidates(NamedTuple):
    """The candidate classes of a set and the right one of each row.

    Attributes:
        names: K class names.
        target: (N,) int64, the right class of each row.
        narrower: Name to the (S,) numbers of a part of the classes, ascending; every row's class is in it.
    """

    names: list[str]
    target: Tensor
    narrower: dict[str, Tensor]


def find_candidates(
    rows: Dataset,
    label: str,
    classes: Sequence[str] | None,
    classes_from: Sequence[str | Dataset] | None,
    among: Mapping[str, Sequence[str | Dataset]],
) -> Candidates:
    """Work out the candidates from the arguments of ``ZeroShotEvaluator``.

    Raises:
        ArgumentError: A label is no candidate, or no candidates can be known from plain numbers.
    """
    names = list(classes) if classes is not None else _names_of(label, classes_from or [rows])
    number = {name: index for index, name in enumerate(names)}
    if len(number) < len(names):
        twice = next(name for index, name in enumerate(names) if number[name] != index)
        raise ArgumentError("classes", f"{twice!r} is there twice")
    target = _targets(rows, label, number, by_number=classes is not None)
    narrower = {}
    for key, sources in among.items():
        part = [_number(name, number, "among") for name in _names_of(label, sources)]
        narrower[key] = torch.tensor(sorted(part))
        outside = ~torch.isin(target, narrower[key])
        if outside.any():
            name = names[int(target[outside][0])]
            raise ArgumentError(
                "among", f"{name!r} is the class of a row but not among {key!r}: it could never be right"
            )
    return Candidates(names, target, narrower)


def _names_of(label: str, sources: Sequence[str | Dataset]) -> list[str]:
    """The distinct labels of some sets: a column's own class names in their order, else sorted."""
    found: dict[str, None] = {}
    for source in sources:
        rows = open_rows("classes_from", source, [label])
        own: list[str] | None = getattr(rows.features[label], "names", None)
        values = own or sorted(set(rows[:][label]), key=str)  # unique() would rewrite selected rows first
        if not all(isinstance(value, str) for value in values):
            raise ArgumentError(
                "label", f"column {label!r} holds plain numbers: give the names they stand for as `classes`"
            )
        found.update(dict.fromkeys(values))
    return list(found)


def _targets(rows: Dataset, label: str, number: dict[str, int], by_number: bool) -> Tensor:
    values = rows.select_columns([label])[:][label]  # alone, or each row's image would be decoded
    own: list[str] | None = getattr(rows.features[label], "names", None)
    if own is not None and not by_number:
        values = [own[value] for value in values]
    if values and isinstance(values[0], str):
        return torch.tensor([_number(value, number, "classes") for value in values])
    wrong = [value for value in values if not 0 <= value < len(number)]
    if wrong:
        raise ArgumentError("classes", f"there are {len(number)} names, but column {label!r} holds {wrong[0]}")
    return torch.tensor(values, dtype=torch.int64)


def _number(name: str, number: dict[str, int], argument: str) -> int:
    if name not in number:
        near = get_close_matches(name, number, n=1, cutoff=0)
        raise ArgumentError(
            argument, f"{name!r} is a label but no candidate, the nearest is {', '.join(map(repr, near))}"
        )
    return number[name]
