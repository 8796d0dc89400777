"""Finding a class by its dotted name, and the arguments it takes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from clipkit.cli.explain import did_you_mean, nearest

__all__ = ["Argument", "Unimportable", "arguments_of", "find_object", "fit_value", "said_by"]


class Unimportable(Exception):
    """A dotted name that leads to nothing; the message is a sentence for the user."""


class Argument(NamedTuple):
    """One argument of a class.

    Attributes:
        type: Its annotation.
        required: Whether there is no default.
        default: Its default.
    """

    type: Any
    required: bool
    default: Any


def find_object(class_path: str, bases: Sequence[type] = ()) -> Any:
    """Import what a dotted name leads to. Its module has to be trusted by then.

    Args:
        class_path: Such as ``clipkit.towers.TimmTower``.
        bases: What it should be a subclass of; only to find the full name of a short one.

    Raises:
        Unimportable: With the nearest name that exists.
    """
    module_name, _, name = class_path.rpartition(".")
    if not module_name:
        raise Unimportable(_full_name_of(class_path, bases))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise Unimportable(_broken(module_name, error)) from error
        return _member(module_name, name, bases, error)
    except Exception as error:
        raise Unimportable(_broken(module_name, error)) from error
    if not hasattr(module, name):
        raise Unimportable(f"{module_name} has no {name}. {did_you_mean(name, _public(module))}")
    return getattr(module, name)


def _member(module_name: str, name: str, bases: Sequence[type], error: ModuleNotFoundError) -> Any:
    """Return ``module.Class.name``, where what was taken for a module is a class."""
    if error.name == module_name and "." in module_name:
        parent_name, _, member = module_name.rpartition(".")
        outer = getattr(find_module(parent_name), member, None)
        if inspect.isclass(outer) and hasattr(outer, name):
            return getattr(outer, name)
    missing = str(error.name)
    parent_name, _, last = missing.rpartition(".")
    parent = find_module(parent_name) if parent_name else None
    found = pkgutil.iter_modules(parent.__path__) if parent is not None and hasattr(parent, "__path__") else ()
    near = nearest(last, [module.name for module in found if not module.name.startswith("_")])
    raise Unimportable(f"there is no module {missing}." + (f" Did you mean {parent_name}.{near}?" if near else ""))


def find_module(name: str) -> ModuleType | None:
    """Return a module, or None where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
    return [name for name in names if callable(getattr(module, name, None))]


def _full_name_of(name: str, bases: Iterable[type]) -> str:
    """Say the full name of a class that was named without its module."""
    known = {found.__name__: found for base in bases for found in _subclasses(base)}
    near = nearest(name, [found for found in known if not found.startswith("_")])
    if near is None:
        return f"{name} is no full name; a class is named with its module, as in clipkit.towers.TimmTower."
    return f"a class is named with its module. Did you mean {_shortest_path(known[near])}?"


def _subclasses(base: type) -> set[type]:
    direct: set[type] = set(base.__subclasses__()) if base is not object else set()
    return direct.union(*(_subclasses(found) for found in direct))


def _shortest_path(found: type) -> str:
    """Return the highest package that exports a class: ``clipkit.towers.TimmTower``."""
    parts = found.__module__.split(".")
    for end in range(1, len(parts)):
        package = find_module(".".join(parts[:end]))
        if package is not None and getattr(package, found.__name__, None) is found:
            return f"{package.__name__}.{found.__name__}"
    return f"{found.__module__}.{found.__qualname__}"


def _broken(module_name: str, error: Exception) -> str:
    return f"{module_name} cannot be imported: {said_by(error)}"


def said_by(error: BaseException) -> str:
    """Return an exception in one sentence; with the line it came from where that is in a user's own file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.msg} ({Path(error.filename).name}, line {error.lineno})."
    text = " ".join(str(error).split())[:400].rstrip(".")
    if not text or isinstance(error, KeyError | AssertionError):  # the name belongs to what these say
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})." if own else f"{text}."


def _is_own(filename: str) -> bool:
    library = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    return not filename.startswith(library)


@cache
def arguments_of(target: Callable[..., Any]) -> dict[str, Argument]:
    """Return the arguments of a class or function in their order, those that ``**kwargs`` passes on included."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    if inspect.isclass(target):
        parser.add_class_arguments(target, fail_untyped=False)
    else:
        parser.add_function_arguments(target, fail_untyped=False)
    arguments: dict[str, Argument] = {}
    for action in parser._actions:  # no public way to the annotations that jsonargparse has resolved
        name, _, inner = str(action.dest).partition(".")
        if inner and inner != "help":  # a dataclass, opened into its fields
            arguments[name] = Argument(Any, False, None)
        elif not inner and hasattr(action, "_typehint"):
            arguments[name] = Argument(action._typehint, bool(action.required), action.default)
    return arguments


def fit_value(value: Any, annotation: Any) -> Any:
    """Return a value as jsonargparse reads it for an annotation: ``[32, 32]`` becomes a tuple where one is asked for.

    Raises:
        ValueError: Where it does not fit.
    """
    from jsonargparse import ArgumentError, Namespace

    try:
        parser = _parser_for(annotation)
    except (TypeError, ValueError):  # an annotation that cannot be checked, or not be cached
        return value
    try:
        parsed: Namespace = parser.parse_object({"value": value})
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(str(error)) from error
    return parsed.value


@cache
def _parser_for(annotation: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    return parser
