"""Warm-up, cosine and constant against their formulas."""

from __future__ import annotations

import math

import pytest

from clipkit.optim import warmup_factor
from clipkit.types import ArgumentError


def test_warm_up_is_linear_and_ends_at_one():
    factor = warmup_factor("cosine", 10, 100)
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_cosine_to_zero():
    factor = warmup_factor("cosine", 10, 110)
    for step in range(10, 111):
        assert factor(step) == pytest.approx((1 + math.cos(math.pi * (step - 10) / 100)) / 2)
    assert factor(10) == 1 and factor(110) == 0 and factor(500) == 0


def test_constant_needs_no_end():
    factor = warmup_factor("constant", 3, 0)
    assert [factor(step) for step in (0, 2, 3, 10**6)] == pytest.approx([1 / 3, 1, 1, 1])


def test_no_warm_up():
    assert warmup_factor("cosine", 0, 10)(0) == 1


def test_a_warm_up_longer_than_the_run():
    factor = warmup_factor("cosine", 100, 10)
    assert factor(9) == pytest.approx(0.1)
    assert factor(99) == 1


@pytest.mark.parametrize(("arguments", "name"), [(("linear", 0, 1), "schedule"), (("cosine", -1, 1), "warmup")])
def test_what_is_refused(arguments, name):
    with pytest.raises(ArgumentError) as caught:
        warmup_factor(*arguments)
    assert caught.value.argument == name
