"""Components keep what made them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from clipkit.layers import Component


class Part(Component):
    def __init__(self, width: int, depth: int = 2, *, inner: Component | None = None, **more: object) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.inner = inner


class Whole(Part):
    def __init__(self, name: str, width: int = 4) -> None:
        super().__init__(width, inner=Part(width))
        self.name = name


class Loose(Component):
    def __init__(self, *sizes: int) -> None:
        super().__init__()


def test_arguments_are_kept_defaults_included():
    assert Part(3).arguments == {"width": 3, "depth": 2, "inner": None}
    assert Part(width=3, depth=5, colour="red").arguments == {"width": 3, "depth": 5, "inner": None, "colour": "red"}


def test_the_outermost_constructor_counts():
    whole = Whole("x")
    assert whole.arguments == {"name": "x", "width": 4}
    assert whole.made_as is Whole
    assert whole.resolved() == whole.arguments


def test_a_component_among_the_arguments_is_registered_once():
    inner = Part(2)
    outer = Part(2, inner=inner)
    assert [name for name, _ in outer.named_children()] == ["layer", "inner"]
    assert outer.arguments["inner"] is inner
    assert sum(1 for _ in outer.parameters()) == 4


def test_resolved_is_a_copy():
    part = Part(2)
    part.resolved()["width"] = 9
    assert part.arguments["width"] == 2


def test_copies_and_pickles_keep_them():
    outer = Part(2, inner=Part(2))
    for other in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert other.arguments["width"] == 2
        assert other.arguments["inner"] is other.inner
        assert other.made_as is Part
        assert torch.equal(other.layer.weight, outer.layer.weight)


def test_wrong_arguments_are_the_constructors_own_error():
    with pytest.raises(TypeError, match="width"):
        Part()
    with pytest.raises(TypeError, match="colour"):
        Whole("x", colour="red")


def test_arguments_without_a_name_are_refused():
    with pytest.raises(TypeError, match=r"Loose takes \*sizes: give its arguments by name"):
        Loose(1, 2)
    assert Loose().arguments == {}
