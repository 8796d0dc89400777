"""Tasks by name: each is a few lines of YAML that name an evaluator's class and its arguments.

A benchmark is one file in ``clipkit/evaluation/benchmarks``, or one of the user's own: task name to ``class_path`` with
the arguments beside it or under ``init_args``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from clipkit.evaluation.base import Evaluator
from clipkit.types import ArgumentError

__all__ = ["Task", "check_tasks", "make_evaluator", "read_tasks"]


class Task(NamedTuple):
    """A task as it was declared.

    Attributes:
        class_path: Where the evaluator's class is.
        arguments: Of its constructor.
        file: The YAML that declares it.
    """

    class_path: str
    arguments: dict[str, Any]
    file: str


def read_tasks(files: Sequence[str | Path] = ()) -> dict[str, Task]:
    """Every task by name: the shipped ones, then those of further files, which may replace them.

    Args:
        files: YAML files of the user's own benchmarks.

    Raises:
        ArgumentError: A file is missing, is no YAML of tasks, or a task has no ``class_path``.
    """
    folder = resources.files("clipkit.evaluation") / "benchmarks"
    shipped = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    texts = {f"benchmarks/{file.name}": file.read_text(encoding="utf-8") for file in shipped}
    for path in map(Path, files):
        if not path.is_file():
            raise ArgumentError("benchmarks", f"there is no file {str(path)!r}")
        texts[str(path)] = path.read_text(encoding="utf-8")
    return {name: task for file, text in texts.items() for name, task in _parse(file, text).items()}


def check_tasks(names: Sequence[str], tasks: dict[str, Task]) -> None:
    """Make sure that every name is a task.

    Raises:
        ArgumentError: One is not; the message has the nearest.
    """
    for name in names:
        if name not in tasks:
            near = get_close_matches(name, tasks, n=1, cutoff=0)
            raise ArgumentError(
                "tasks", f"there is no task {name!r}; did you mean {near[0]!r}? (There are {', '.join(tasks)}.)"
            )


def make_evaluator(task: Task, trust: Sequence[str] = (), **overrides: Any) -> Evaluator:
    """Build the evaluator of a task.

    Args:
        task: As ``read_tasks`` gives it.
        trust: Modules besides ``clipkit`` that a ``class_path`` may name.
        **overrides: Arguments that replace declared ones, ``batch_size`` for one.

    Raises:
        ArgumentError: The class is not trusted or does not exist, or its arguments cannot be right.
    """
    made = _find(task, trust)
    arguments = task.arguments | overrides
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise ArgumentError("tasks", f"{task.file}: {task.class_path}: {error}") from error
    try:
        return made(**arguments)
    except ArgumentError as error:
        raise ArgumentError("tasks", f"{task.file}: {task.class_path}: {error}") from error


def _parse(file: str, text: str) -> dict[str, Task]:
    try:
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ArgumentError("benchmarks", f"{file} is no YAML of tasks: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ArgumentError("benchmarks", f"{file} is no YAML of tasks: it has to map names to what evaluates them")
    tasks = {}
    for name, declared in content.items():
        if not isinstance(declared, dict) or not isinstance(declared.get("class_path"), str):
            raise ArgumentError("benchmarks", f"{file}: task {name!r} needs a class_path, the evaluator to use")
        arguments = {key: value for key, value in declared.items() if key not in ("class_path", "init_args")}
        tasks[str(name)] = Task(declared["class_path"], arguments | (declared.get("init_args") or {}), file)
    return tasks


def _find(task: Task, trust: Sequence[str]) -> Callable[..., Evaluator]:
    module, _, name = task.class_path.rpartition(".")
    if not any(module == root or module.startswith(f"{root}.") for root in ("clipkit", *trust)):
        raise ArgumentError(
            "trust",
            f"{task.file} names {task.class_path}: name the module {module or task.class_path!r} as trusted to use it",
        )
    try:
        return cast("Callable[..., Evaluator]", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ArgumentError("tasks", f"{task.file}: {task.class_path} cannot be imported: {error}") from error
