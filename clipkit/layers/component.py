"""Modules that remember how they were made, so that a saved file can make them again."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import nn

__all__ = ["Component", "Factory"]


class Component(nn.Module):
    """An ``nn.Module`` that keeps its constructor's arguments, defaults included.

    Arguments must be plain data, other components, or callables that make a component; see ``resolved``.

    Attributes:
        made_as: The class that was made; wrappers such as FSDP replace a module's class by one of their own.
        arguments: Argument to value, as the constructor got them.

    Raises:
        TypeError: For positional arguments that the constructor takes as ``*args``: a saved file could not name them.
    """

    made_as: type[Component]
    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments of the outermost constructor, before any ``__init__`` runs."""
        made = super().__new__(cls)
        # Not in nn.Module's own registries: a component among the arguments must not be registered twice.
        made.__dict__["made_as"] = cls
        made.__dict__["arguments"] = _bind(cls, args, kwargs)
        return made

    def resolved(self) -> dict[str, Any]:
        """Arguments that make this component again with no hub and no network; a saved file holds them.

        Override where the given ones name something outside the file (pretrained weights, a hub name, a path) or where
        an argument was a callable.
        """
        return dict(self.arguments)


class Factory:
    """Marks an argument of ``resolved`` that has to be a callable making ``made``, some arguments left to the caller.

    Args:
        made: What the callable made.
        left: Names of the arguments that the caller gives.
    """

    def __init__(self, made: Component, left: tuple[str, ...]) -> None:
        self.made = made
        self.left = left


def _bind(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # read only, never called on the wrong instance
    try:
        # Partial: copy and pickle make an instance with no arguments.
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:
        return {}  # __init__ is about to say so, with a better message
    bound.apply_defaults()  # the file must make the same model where a later version has other defaults
    arguments = dict(list(bound.arguments.items())[1:])
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and arguments.pop(name, ()):
            raise TypeError(f"{cls.__name__} takes *{name}: give its arguments by name, so that a file can hold them")
    return arguments
