"""Rows that are wanted, by what is in their columns."""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from clipkit.data.columns import require_columns, stored
from clipkit.types import ArgumentError

__all__ = ["Filter", "check_filters", "filter_rows", "passes"]

Filter = tuple[str, str, Any]
"""Column, operator and value: ``(width, ">=", 200)``, ``(licence, in, [cc0, cc-by])``."""

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "in": lambda column, values: pc.is_in(column, pa.array(values)),
    "not in": lambda column, values: pc.invert(pc.is_in(column, pa.array(values))),
}

PLAIN_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
    "in": lambda found, values: found in values,
    "not in": lambda found, values: found not in values,
}


def filter_rows(rows: Dataset, filters: Sequence[Filter]) -> Dataset:
    """The rows that pass every filter; one with nothing in the column passes none but ``not in``.

    Args:
        rows: The data set; no image of it is decoded.
        filters: Column, operator and value each.

    Raises:
        ArgumentError: For ``filters``: an unknown column or operator, a value that does not compare, or where no row is
            left.
    """
    check_filters(rows, filters)
    kept = np.ones(len(rows), dtype=bool)
    for column, operator, value in filters:
        try:
            passed = OPERATORS[operator](stored(rows, column), value)
        except (pa.ArrowException, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError("filters", f"{column} {operator} {value!r} does not compare: {reason}") from error
        kept &= np.asarray(pc.fill_null(passed, False))
        if not kept.any():
            raise ArgumentError("filters", f"no row is left after {column} {operator} {value!r}")
    return rows if kept.all() else rows.select(np.flatnonzero(kept))


def check_filters(rows: Dataset, filters: Sequence[Filter]) -> None:
    """Check what needs only the names of the columns.

    Raises:
        ArgumentError: For ``filters``: an unknown column or operator, or no list where there should be one.
    """
    for column, operator, value in filters:
        require_columns(rows, [column], "filters")
        if operator not in OPERATORS:
            raise ArgumentError("filters", f"{operator!r} is not one of {', '.join(OPERATORS)}")
        if operator.endswith("in") and not isinstance(value, list | tuple):
            raise ArgumentError("filters", f"{column} {operator} {value!r}: give a list of values")


def passes(row: Mapping[str, Any], filters: Sequence[Filter]) -> bool:
    """Whether one row passes every filter, as in ``filter_rows``; what does not compare does not pass."""
    return all(_passes(row.get(column), operator, value) for column, operator, value in filters)


def _passes(found: Any, operator: str, value: Any) -> bool:
    if found is None:
        return operator == "not in"
    try:
        return bool(PLAIN_OPERATORS[operator](found, value))
    except TypeError:
        return False
