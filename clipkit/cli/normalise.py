"""The walk over a configuration: every class imported, every key and value checked, before anything is built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clipkit.cli.classes import Argument, Unimportable, arguments_of, find_object, fit_value, said_by
from clipkit.cli.explain import ConfigError, Keys, did_you_mean, dotted, nearest, quoted, type_in_words
from clipkit.cli.merge import Merged, place_of
from clipkit.cli.slots import Slots, slots_of
from clipkit.cli.trust import Trust
from clipkit.tracking.redact import redact
from clipkit.types import ArgumentError

__all__ = ["Named", "Walk"]


class Named(NamedTuple):
    """A class that a configuration names.

    Attributes:
        keys: Where.
        target: The class, or a function that makes one.
        given: Its arguments as jsonargparse wants them, classes in them as ``class_path`` and ``init_args``.
    """

    keys: Keys
    target: Any
    given: dict[str, Any]


class Walk:
    """Walks a merged configuration along the annotations of the classes it names.

    Args:
        merged: The configuration.
        trust: Which modules may be imported.
    """

    def __init__(self, merged: Merged, trust: Trust) -> None:
        self.merged = merged
        self.trust = trust
        self.named: list[Named] = []
        self.notes: list[str] = []

    def root(self, arguments: Mapping[str, Argument]) -> dict[str, Any]:
        """Check a whole configuration.

        Args:
            arguments: The sections there are.

        Returns:
            The configuration as jsonargparse wants it.

        Raises:
            ConfigError: For the first thing that cannot be right.
        """
        self._check_trust(self.merged.values, ())
        given = self._arguments((), "an experiment", self.merged.values, arguments, ())
        for error in self.merged.unresolved.values():
            raise error
        self._check_classes()
        return given

    def error(self, keys: Keys, sentence: str) -> ConfigError:
        """Return the error that says ``key: sentence`` and where the key was written."""
        stop = "" if sentence.endswith((".", "?", "!", ".)", "?)")) else "."
        # what refuses may quote the value, and a terminal may be a file that others read
        return ConfigError(f"{dotted(keys)}: {redact(sentence)}{stop}", place_of(keys, self.merged.places))

    def _check_trust(self, node: Any, keys: Keys) -> None:
        """Refuse every class_path of an untrusted module, wherever it stands, before the first import."""
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in children:
            inner = (*keys, str(key))
            if key == "class_path" and isinstance(value, str) and "." in value:
                self.trust.check(value, inner, place_of(inner, self.merged.places))
            self._check_trust(value, inner)

    def _value(self, keys: Keys, value: Any, argument: Argument, owner: str) -> Any:
        slots = slots_of(argument.type)
        if keys in self.merged.unresolved:
            return None
        if not argument.required and type(value) is type(argument.default) and value == argument.default:
            return value  # whatever its annotation says, and wherever it comes from: the code's own choice
        if isinstance(value, dict) and (made := self._mapping(keys, value, slots, argument, owner)) is not None:
            return made
        if isinstance(value, list) and slots.deep and (slots.items or slots.anything):
            items = Argument(typing.Union[slots.items or (Any,)], True, None)  # noqa: UP007  # made from a tuple
            return [self._value((*keys, str(index)), item, items, owner) for index, item in enumerate(value)]
        if isinstance(value, str) and slots.named:
            return self._name(keys, value, slots, argument, owner)
        return self._plain(keys, value, argument, owner)

    def _mapping(self, keys: Keys, value: dict[Any, Any], slots: Slots, argument: Argument, owner: str) -> Any:
        """Return a class or a mapping that may hold classes; None for a plain value."""
        takes_class = slots.classes or slots.factories
        if "class_path" in value and (takes_class or slots.anything):
            return self._class(keys, value, slots)
        if (slots.values and slots.deep) or slots.anything:
            inner = Argument(typing.Union[slots.values or (Any,)], True, None)  # noqa: UP007  # made from a tuple
            return {key: self._value((*keys, str(key)), item, inner, owner) for key, item in value.items()}
        if not takes_class or slots.values:
            return None
        default = self._only_class(slots)
        if default is None:
            kinds = type_in_words(argument.type)
            near = nearest("class_path", map(str, value))
            hint = f"Did you mean class_path in place of {near}?" if near else "Name it with class_path."
            raise self.error((*keys, *([near] if near else ())), f"{owner} takes {kinds} here; which class? {hint}")
        return self._build(keys, default, value, slots)

    @staticmethod
    def _only_class(slots: Slots) -> type | None:
        """Return the class that is meant where none is named: the one an annotation names, if it can be made."""
        kinds = slots.bases
        # A base such as nn.Module could be made too, but takes nothing and is never what is meant.
        sole = len(kinds) == 1 and not inspect.isabstract(kinds[0]) and bool(arguments_of(kinds[0]))
        return kinds[0] if sole else None

    def _class(self, keys: Keys, value: dict[Any, Any], slots: Slots) -> dict[str, Any]:
        class_path = value["class_path"]
        if not isinstance(class_path, str):
            raise self.error((*keys, "class_path"), f"{quoted(class_path)} is no name of a class.")
        target = self._find((*keys, "class_path"), class_path, slots)
        # a function may make one, where its annotation says so; where anything goes none does
        if not callable(target) or (slots.anything and not inspect.isclass(target)):
            raise self.error((*keys, "class_path"), f"{class_path} is no class.")
        arguments = {name: item for name, item in value.items() if name != "class_path"}
        return self._build(keys, target, arguments, slots, class_path)

    def _find(self, keys: Keys, class_path: str, slots: Slots) -> Any:
        """Import a class, once its module is trusted, and see that it is one of those that fit."""
        bases = slots.bases
        if "." in class_path:
            self.trust.check(class_path, keys, place_of(keys, self.merged.places))
        try:
            target = find_object(class_path, bases)
        except Unimportable as error:
            raise self.error(keys, str(error)) from error
        # Modules import others: what is reached through a trusted one has to come from a trusted one too.
        defined = f"{getattr(target, '__module__', None) or class_path}.{getattr(target, '__qualname__', '')}"
        self.trust.check(defined, keys, place_of(keys, self.merged.places))
        if inspect.isclass(target) and not slots.anything:
            self._refuse_misfit(keys, class_path, target, slots)
        return target

    def _refuse_misfit(self, keys: Keys, class_path: str, target: type, slots: Slots) -> None:
        if inspect.isabstract(target):
            raise self.error(keys, f"{class_path} is only the base of others and cannot be made itself.")
        free = slots.types or any(not inspect.isclass(made) for made, _ in slots.factories)
        if free or any(_is_protocol(base) for base in slots.bases):
            return  # left to jsonargparse
        called = bool(slots.factories) and "__call__" in dir(target)
        if not called and not issubclass(target, tuple(slots.bases)):
            names = " or ".join(base.__name__ for base in slots.bases)
            raise self.error(keys, f"{class_path} is no {names}, which is what stands here.")

    def _name(self, keys: Keys, value: str, slots: Slots, argument: Argument, owner: str) -> Any:
        """Check a class or function given as a plain string."""
        target = self._find(keys, value, slots)
        if inspect.isclass(target) and issubclass(target, tuple(slots.bases)):
            return self._build(keys, target, {}, slots, value)
        return self._plain(keys, value, argument, owner)

    def _build(
        self, keys: Keys, target: Any, value: dict[Any, Any], slots: Slots, class_path: str | None = None
    ) -> dict[str, Any]:
        """Return ``class_path`` and ``init_args`` of a class whose arguments are all right."""
        arguments = arguments_of(target)
        counts = [count for made, count in slots.factories if _makes(made, target)]
        skipped = list(arguments)[: max(counts, default=0)]
        given = self._arguments(keys, target.__name__, value, arguments, skipped)
        self.named.append(Named(keys, target, given))
        name = class_path or f"{target.__module__}.{target.__qualname__}"
        return {"class_path": name, "init_args": given} if given else {"class_path": name}

    def _arguments(
        self, keys: Keys, owner: str, value: dict[Any, Any], arguments: Mapping[str, Argument], skipped: Sequence[str]
    ) -> dict[str, Any]:
        value = self._without_stale(keys, owner, value, arguments)
        for name in value:
            if name not in arguments or name in skipped:
                raise self.error((*keys, str(name)), self._unknown(keys, str(name), owner, arguments, skipped))
        for name, argument in arguments.items():
            if argument.required and name not in value and name not in skipped:
                where = f"{dotted(keys)}: " if keys else ""
                message = f"{where}{owner} needs {name} ({type_in_words(argument.type)}), which is not given."
                raise ConfigError(message, place_of(keys, self.merged.places))
        return {name: self._value((*keys, name), item, arguments[name], owner) for name, item in value.items()}

    def _without_stale(
        self, keys: Keys, owner: str, value: dict[Any, Any], arguments: Mapping[str, Argument]
    ) -> dict[Any, Any]:
        """Leave out what had been given to a class that another took the place of, and note it."""
        replaced = self.merged.replaced.get(keys)
        if replaced is None:
            return value
        old = [name for name in value if name in replaced.arguments]
        dropped = [name for name in old if name not in arguments]
        kept = [f"{name}={quoted(redact(value)[name])}" for name in old if name in arguments]
        note = f"{dotted(keys)}: {owner} in place of {replaced.old.split('.')[-1]} ({replaced.place})"
        note += f"; left out, having no place in it: {', '.join(dropped)}" if dropped else ""
        note += f"; still as given before: {', '.join(kept)}" if kept else ""
        if old:
            self.notes.append(f"{note}.")
        return {name: item for name, item in value.items() if name not in dropped}

    def _unknown(
        self, keys: Keys, name: str, owner: str, arguments: Mapping[str, Argument], skipped: Sequence[str]
    ) -> str:
        if name in skipped:
            return f"{name} is given to {owner} by what holds it; leave it out."
        takes = f"{owner} has no {'argument' if keys else 'section'} {name}."
        free = [argument for argument in arguments if argument not in skipped]
        if len(keys) > 1:
            free.append("class_path")
        if nearest(name, free) is None:
            below = [known for known in self.merged.places if known[:-1] != keys and known[: len(keys)] == keys]
            for known in below:
                if known[-1:] == (name,):
                    return f"{takes} Did you mean {dotted(known)}?"
        return f"{takes} {did_you_mean(name, free)}"

    def _plain(self, keys: Keys, value: Any, argument: Argument, owner: str) -> Any:
        try:
            fit_value(value, argument.type)
            fits = value is not None or slots_of(argument.type).null
        except ValueError:
            fits = False
        if fits:
            return value
        choices = [str(choice) for choice in _choices(argument.type)]
        near = nearest(value, choices) if isinstance(value, str) else None
        hint = f" Did you mean {near}?" if near else ""
        shown = quoted(redact({keys[-1]: value})[keys[-1]])
        message = f"{dotted(keys)} is {shown}, but {owner} takes {type_in_words(argument.type)} there.{hint}"
        raise ConfigError(message, place_of(keys, self.merged.places))

    def _check_classes(self) -> None:
        """Let every class that can look at its own arguments, with the outermost last."""
        for named in self.named:
            check = getattr(named.target, "check", None)
            if not inspect.ismethod(check) or not _takes(check, named.given):
                continue
            try:
                check(**named.given)
            except ArgumentError as error:
                raise self.error((*named.keys, *error.argument.split(".")), error.message) from error
            except Exception as error:
                raise self.error(named.keys, said_by(error)) from error


def _makes(made: Any, target: Any) -> bool:
    return inspect.isclass(made) and inspect.isclass(target) and issubclass(target, made)


def _takes(method: Callable[..., Any], given: Mapping[str, Any]) -> bool:
    """Return whether a method takes a class's arguments: one that only has the name ``check`` may not."""
    try:
        inspect.signature(method).bind(**given)
    except TypeError:
        return False
    return True


def _is_protocol(base: type) -> bool:
    return bool(getattr(base, "_is_protocol", False))


def _choices(annotation: Any) -> list[str]:
    """Return the words that an annotation allows."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(choice) for choice in typing.get_args(annotation)]
    return [choice for inner in typing.get_args(annotation) for choice in _choices(inner)]
