"""Self-contained files: a model's description and weights, read with neither hub nor pickle."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipkit.layers import Component, Factory

__all__ = ["FORMAT", "build", "describe", "load", "save"]

FORMAT = 1
HEADER = "clipkit"  # the key of a file that holds what is needed to make the model again


def describe(component: object) -> dict[str, Any]:
    """A component as plain data: ``class_path`` and ``init_args``, in their resolved form.

    Raises:
        TypeError: For something that is no component, a class that no other process could import, or an argument that
            is neither plain data nor a component.
    """
    if not isinstance(component, Component):
        name = type(component).__name__
        raise TypeError(f"a {name} does not keep its arguments: derive it from clipkit.layers.Component to save it")
    cls = component.made_as
    arguments = {name: _plain(value, f"{cls.__name__}.{name}") for name, value in component.resolved().items()}
    return {"class_path": _public_path(cls), "init_args": arguments}


def build(description: Mapping[str, Any], trust: Sequence[str] = ()) -> Any:
    """Make a component from what ``describe`` gave.

    Args:
        description: ``class_path`` and ``init_args``.
        trust: Modules besides clipkit whose classes may be made.

    Raises:
        ValueError: For a class from anywhere else, and for anything that is no component.
    """
    made = _component_class(description["class_path"], (trust,) if isinstance(trust, str) else trust)
    options = {key: _made(value, trust) for key, value in description["init_args"].items()}
    return partial(made, **options) if description.get("partial") else made(**options)


def header(model: object) -> dict[str, Any]:
    """What a checkpoint holds beside the weights, under the key ``clipkit``."""
    return {"format": FORMAT, "model": describe(model)}


def save(model: Component, path: str | os.PathLike[str]) -> None:
    """Write a model to a file that ``load`` reads anywhere; a file of that name is replaced at once or not at all.

    Args:
        model: A model such as :class:`clipkit.models.DualEncoder`.
        path: The file.

    Raises:
        TypeError: For a model that cannot be described; see ``describe``.
        OSError: Where it cannot be written.
    """
    path = Path(path)
    content = {
        HEADER: header(model),
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # a rename can reach the disk before what it names
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], trust: Sequence[str] = (), device: str | torch.device = "cpu") -> Any:
    """A model from a file of ``save`` or a checkpoint of ``clipkit fit``, in eval mode.

    Needs no hub: the architecture, the tokenizer and the sizes are in the file, which is read with
    ``weights_only=True``.

    Args:
        path: The file.
        trust: Modules besides clipkit whose classes the file may name.
        device: Where to put it.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: For a file that is not clipkit's, is newer than this version, or names a class that is not trusted.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        shards = f", but a folder: `clipkit consolidate {name} FILE` makes one of shards" if Path(path).is_dir() else ""
        raise FileNotFoundError(f"there is no file {name!r}{shards}")
    content = _read(name)
    found = content.get(HEADER) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{name!r} was not written by clipkit: it does not say how to make its model")
    if found["format"] > FORMAT:
        message = f"{name!r} has format {found['format']}, and this version reads up to {FORMAT}: update clipkit"
        raise ValueError(message)
    model = build(found["model"], trust)
    model.load_state_dict(_weights(content["state_dict"]))
    return model.to(device).eval()


def _read(name: str) -> Any:
    try:
        return torch.load(name, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no checkpoint can make an unpickler raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name!r} was not written by clipkit, or is damaged: {reason}") from error


def _weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def _component_class(path: str, trust: Sequence[str]) -> type[Component]:
    module, _, name = path.rpartition(".")
    _check_trust(path, module, trust)
    made = getattr(importlib.import_module(module), name, None)
    # A trusted module also holds what it imports from others: functions, and classes of theirs.
    if not (isinstance(made, type) and issubclass(made, Component)):
        raise ValueError(f"the file asks for {path}, which is no component")
    _check_trust(path, made.__module__, trust)
    return made


def _check_trust(path: str, module: str, trust: Sequence[str]) -> None:
    if not any(module == trusted or module.startswith(f"{trusted}.") for trusted in ("clipkit", *trust)):
        root = module.partition(".")[0]
        raise ValueError(
            f"the file asks for {path}, not one of clipkit's; load(path, trust=[{root!r}]) if you trust it"
        )


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Component):
        return describe(value)
    if isinstance(value, Factory):
        made = describe(value.made)
        kept = {name: argument for name, argument in made["init_args"].items() if name not in value.left}
        return {**made, "init_args": kept, "partial": True}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}: a saved argument is plain data or a component")


def _made(value: Any, trust: Sequence[str]) -> Any:
    if isinstance(value, dict):
        if "class_path" in value and "init_args" in value:
            return build(value, trust)
        return {key: _made(item, trust) for key, item in value.items()}
    return [_made(item, trust) for item in value] if isinstance(value, list) else value


def _public_path(cls: type) -> str:
    """``clipkit.towers.TimmTower`` where the package exports it, so that files outlive a move inside it."""
    if "." in cls.__qualname__:
        raise TypeError(f"{cls.__qualname__} can be made nowhere else: define it at the top level of a module")
    package = cls.__module__.rpartition(".")[0]
    if package.startswith("clipkit.") and getattr(importlib.import_module(package), cls.__name__, None) is cls:
        return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"
