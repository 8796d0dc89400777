"""Filters against plain Python."""

from __future__ import annotations

import operator

import pytest
from datasets import Dataset

from clipkit.data.filters import filter_rows
from clipkit.types import ArgumentError

SIZES = [5, None, 300, 200, 100, 200]
KINDS = ["a", "b", None, "b", "c", "a"]
PYTHON = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "in": lambda one, values: one in values, "not in": lambda one, values: one not in values,
}  # fmt: skip


@pytest.fixture
def rows():
    return Dataset.from_dict({"size": SIZES, "kind": KINDS, "number": list(range(6))})


@pytest.mark.parametrize("how", PYTHON)
@pytest.mark.parametrize(("column", "values", "value"), [("size", SIZES, 200), ("kind", KINDS, "b")])
def test_against_python(rows, how, column, values, value):
    value = [value, value] if "in" in how else value

    def keep(one):  # nothing compares with nothing, and nothing is not among the values
        return how == "not in" if one is None else PYTHON[how](one, value)

    expected = [i for i, one in enumerate(values) if keep(one)]
    assert filter_rows(rows, [(column, how, value)])["number"][:] == expected


def test_all_of_them_must_pass(rows):
    assert filter_rows(rows, [("size", ">=", 100), ("kind", "in", ["b", "c"])])["number"][:] == [3, 4]
    assert filter_rows(rows, ()) is rows


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([("sise", "==", 1)], "no column 'sise'; did you mean 'size'?"),
        ([("size", "=", 1)], "'=' is not one of ==, !=,"),
        ([("size", ">", "large")], "size > 'large' does not compare"),
        ([("kind", "in", "b")], "kind in 'b': give a list of values"),
        ([("size", ">", 100), ("size", ">", 1000)], "no row is left after size > 1000"),
    ],
)
def test_what_is_refused(rows, filters, message):
    with pytest.raises(ArgumentError) as caught:
        filter_rows(rows, filters)
    assert caught.value.argument == "filters"
    assert message in caught.value.message
