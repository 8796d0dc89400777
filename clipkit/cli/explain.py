"""How a mistake in a configuration is said: one short paragraph with the place, the key and the nearest valid name."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, Union

__all__ = ["ConfigError", "Keys", "Place", "did_you_mean", "dotted", "nearest", "quoted", "type_in_words"]

Keys = tuple[str, ...]
"""Where a value sits in a configuration: ``("trainer", "callbacks", "0", "monitor")``."""

_PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Iterable, collections.abc.Sequence, collections.abc.Collection)


class Place(NamedTuple):
    """Where a key was written.

    Attributes:
        file: The file as the user would type it, or ``command line``.
        line: Line of the key, from 1; None on the command line.
    """

    file: str
    line: int | None = None

    def __str__(self) -> str:
        """Return ``experiments/emoji.yaml, line 12``."""
        return self.file if self.line is None else f"{self.file}, line {self.line}"


class ConfigError(Exception):
    """A configuration that cannot be right; the command line prints it and ends with exit code 2.

    Args:
        message: One short paragraph: what is wrong and what to do.
        place: Where it was written, when it was written anywhere.
    """

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message if place is None else f"{place}: {message}")
        self.message = message
        self.place = place


def dotted(keys: Iterable[str]) -> str:
    """Return the name of a key as it is typed on the command line."""
    return ".".join(keys)


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name most like ``name``, or None where none is like it."""
    by_folded = {_folded(candidate): candidate for candidate in names}
    found = difflib.get_close_matches(_folded(name), list(by_folded), n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def did_you_mean(name: str, names: Sequence[str], most: int = 12) -> str:
    """Return the sentence that helps: the nearest name, or what there is to choose from."""
    found = nearest(name, names)
    if found is not None:
        return f"Did you mean {found}?"
    if not names:
        return "It takes none."
    listed = ", ".join(sorted(names)[:most])
    return f"There {'is' if len(names) == 1 else 'are'} {listed}{' and more' if len(names) > most else ''}."


def quoted(value: object, most: int = 48) -> str:
    """Return a value as a reader of YAML knows it, cut to ``most`` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value).replace("'", '"') if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= most else f"{text[: most - 3]}..."


def type_in_words(annotation: object) -> str:
    """Return what an annotation asks for, in the words of someone who writes YAML."""
    parts = _parts(annotation)
    choices = dict.fromkeys(str(choice) for part in parts for choice in _choices(part))
    words = [_part_in_words(part) for part in parts if not _choices(part)]
    if choices:
        words.insert(0, f"one of {', '.join(choices)}")
    words = sorted(dict.fromkeys(words), key=lambda word: word == "null")
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _parts(annotation: object) -> list[object]:
    """Return the members of a union, nested unions opened."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [part for member in typing.get_args(annotation) for part in _parts(member)]


def _choices(part: object) -> tuple[object, ...]:
    return typing.get_args(part) if typing.get_origin(part) is Literal else ()


def _part_in_words(part: object) -> str:
    origin, arguments = typing.get_origin(part), typing.get_args(part)
    if isinstance(part, type) and part in _PLAIN:
        return _PLAIN[part]
    if (origin or part) in _LISTS:
        return f"a list of {_plural(arguments)}" if arguments else "a list"
    if (origin or part) in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return "a mapping"
    if origin is collections.abc.Callable or part in (collections.abc.Callable, typing.Callable):
        made = arguments[-1] if arguments and inspect.isclass(arguments[-1]) else None
        return f"a class or function that makes a {made.__name__}" if made else "a class or function"
    if inspect.isclass(part):
        return "a path" if issubclass(part, PurePath) else f"a {part.__name__}"
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", str(part))


def _plural(arguments: tuple[Any, ...]) -> str:
    """Return what the items of a list are: ``numbers``, ``Callback``."""
    plurals = {str: "texts", int: "whole numbers", float: "numbers"}
    kinds = [part for argument in arguments if argument is not Ellipsis for part in _parts(argument)]
    named = [plurals.get(kind, _part_in_words(kind).removeprefix("a ")) for kind in kinds]  # type: ignore[call-overload]  # a name may be None
    count = f"{len(kinds)} " if len(arguments) > 1 and Ellipsis not in arguments and len(set(named)) == 1 else ""
    return count + " or ".join(dict.fromkeys(named))
