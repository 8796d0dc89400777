"""Where an annotation asks for a class: directly, in a list, in a mapping, or as a callable that makes one."""

from __future__ import annotations

import collections.abc
import datetime
import enum
import inspect
import os
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

__all__ = ["Slots", "slots_of"]

_LISTS = (list, tuple, set, frozenset, collections.abc.Iterable, collections.abc.Sequence, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN = (enum.Enum, os.PathLike, datetime.date, datetime.timedelta, tuple, dict)


class Slots(NamedTuple):
    """What an annotation has room for besides plain values.

    Attributes:
        classes: Base classes; any subclass may be named.
        types: Whether a class itself is asked for, not an instance.
        factories: What callables return (a class or ``Any``), with the number of arguments their caller gives.
        items: Annotations of the items of a list.
        values: Annotations of the values of a mapping.
        anything: Whether there is no restriction.
        text: Whether plain text fits as it is.
        null: Whether null fits.
    """

    classes: tuple[type, ...] = ()
    types: bool = False
    factories: tuple[tuple[Any, int], ...] = ()
    items: tuple[Any, ...] = ()
    values: tuple[Any, ...] = ()
    anything: bool = False
    text: bool = False
    null: bool = False

    def __or__(self, other: Slots) -> Slots:
        """Return the room of a union."""
        return Slots(
            self.classes + other.classes,
            self.types or other.types,
            self.factories + other.factories,
            self.items + other.items,
            self.values + other.values,
            self.anything or other.anything,
            self.text or other.text,
            self.null or other.null,
        )

    @property
    def named(self) -> bool:
        """Whether a class or function can be named here by a plain string."""
        return bool(self.classes or self.factories or self.types) and not self.text

    @property
    def bases(self) -> list[type]:
        """Return the classes that what is named should be, or make."""
        return [*self.classes, *(made for made, _ in self.factories if inspect.isclass(made))]

    @property
    def deep(self) -> bool:
        """Whether a class can stand here or anywhere inside."""
        inner = (slots_of(annotation) for annotation in self.items + self.values)
        return bool(self.classes or self.factories or self.types or self.anything) or any(slots.deep for slots in inner)


def slots_of(annotation: Any) -> Slots:
    """Return what an annotation has room for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        slots = Slots()
        for member in arguments:
            slots = slots | slots_of(member)
        return slots
    if origin is typing.Annotated:
        return slots_of(arguments[0])
    if (origin or annotation) in _LISTS:
        return Slots(items=tuple(item for item in arguments if item is not Ellipsis) or (Any,))
    if (origin or annotation) in _MAPPINGS:
        return Slots(values=arguments[1:] or (Any,))
    if (origin or annotation) in (collections.abc.Callable, Callable):
        return Slots(factories=(_factory(arguments),))
    return _leaf(annotation, origin)


def _factory(arguments: Sequence[Any]) -> tuple[Any, int]:
    """Return what a callable returns, and how many arguments its caller gives."""
    if len(arguments) != 2:
        return (Any, 0)
    return (arguments[1], len(arguments[0]) if isinstance(arguments[0], list) else 0)


def _leaf(annotation: Any, origin: Any) -> Slots:
    if annotation is Any or annotation is object:
        return Slots(anything=True, text=True, null=True)
    if annotation is str or origin is typing.Literal:
        return Slots(text=True)
    if origin is type or annotation is type:
        return Slots(types=True)
    if isinstance(annotation, typing.TypeVar):
        return slots_of(annotation.__bound__) if annotation.__bound__ else Slots(anything=True, text=True, null=True)
    if inspect.isclass(origin or annotation):
        found: type = origin or annotation
        if found is type(None):
            return Slots(null=True)
        if found.__module__ == "builtins" or issubclass(found, _PLAIN):
            return Slots(text=issubclass(found, enum.Enum | os.PathLike))
        return Slots(classes=(found,))
    return Slots(anything=True, text=True, null=True)
