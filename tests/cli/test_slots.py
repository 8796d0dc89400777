from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pytest
from torch import Tensor, nn

from clipkit.cli.slots import Slots, slots_of


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: int


T = TypeVar("T", bound=nn.Module)
ANYTHING = Slots(anything=True, text=True, null=True)


@pytest.mark.parametrize(
    ("annotation", "slots"),
    [
        (int, Slots()),
        (str, Slots(text=True)),
        (None, Slots(null=True)),
        (Literal["a"], Slots(text=True)),
        (Path, Slots(text=True)),
        (Colour, Slots(text=True)),
        (timedelta, Slots()),
        (Pair, Slots()),
        (Any, ANYTHING),
        (object, ANYTHING),
        (nn.Module, Slots(classes=(nn.Module,))),
        (T, Slots(classes=(nn.Module,))),
        (nn.Module | None, Slots(classes=(nn.Module,), null=True)),
        (str | nn.Module, Slots(classes=(nn.Module,), text=True)),
        (Annotated[nn.Module, "x"], Slots(classes=(nn.Module,))),
        (list[nn.Module], Slots(items=(nn.Module,))),
        (tuple[int, ...], Slots(items=(int,))),
        (Iterable[nn.Module] | bool, Slots(items=(nn.Module,))),
        (Mapping[str, nn.Module], Slots(values=(nn.Module,))),
        (dict, Slots(values=(Any,))),
        (type[nn.Module], Slots(types=True)),
        (Callable[[int, int], nn.Module], Slots(factories=((nn.Module, 2),))),
        (Callable[..., nn.Module], Slots(factories=((nn.Module, 0),))),
        (Callable, Slots(factories=((Any, 0),))),
        (Callable[[Tensor], Tensor] | None, Slots(factories=((Tensor, 1),), null=True)),
    ],
)
def test_what_an_annotation_has_room_for(annotation, slots):
    if annotation is None:
        annotation = type(None)
    assert slots_of(annotation) == slots


@pytest.mark.parametrize(
    ("annotation", "deep", "named"),
    [
        (int, False, False),
        (list[tuple[float, float]], False, False),
        (list[nn.Module], True, False),
        (Mapping[str, list[nn.Module]], True, False),
        (nn.Module, True, True),
        (str | nn.Module, True, False),
        (Any, True, False),
        (type[nn.Module], True, True),
    ],
)
def test_where_a_class_can_stand(annotation, deep, named):
    assert (slots_of(annotation).deep, slots_of(annotation).named) == (deep, named)
