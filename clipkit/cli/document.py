"""A YAML file as plain data, with the line every key stands on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from clipkit.cli.explain import ConfigError, Keys, Place, dotted

__all__ = ["Document", "parse_scalar", "read_document", "shown"]

EXPERIMENT = "an experiment is a mapping with the sections model, data and trainer"

MOST_NODES = 100_000
"""A file that unfolds into more than this through its aliases is not an experiment."""


class Document(NamedTuple):
    """What a source of configuration says, and where.

    Attributes:
        values: The data: dicts, lists and scalars; ``init_args`` folded into the dict beside ``class_path``.
        places: Every key and list item to where it was written; the file itself under the empty key.
    """

    values: dict[str, Any]
    places: dict[Keys, Place]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 less its traps: ``1e-3`` is a number, ``12:30`` and ``2026-01-01`` are text."""


_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_DROPPED = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""[-+]?(?: [0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)? | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        | [0-9][0-9_]*[eE][-+]?[0-9]+ | \.inf | \.Inf )$ | \.nan$ | \.NaN$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def shown(path: Path) -> str:
    """Return a path as its user would type it: relative where it is below the working folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def read_document(path: Path, form: str = EXPERIMENT) -> Document:
    """Read an experiment's file.

    Args:
        path: The file.
        form: What is expected in it, for an error's message.

    Raises:
        ConfigError: With line and column, for what is no YAML, no mapping, has a key twice or keys with tabs.
    """
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot be read: {reason}.", Place(name)) from error
    root = _compose(text, name)
    if root is None:
        raise ConfigError(f"is empty; {form}.", Place(name))
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"is {kind}; {form}.", Place(name, root.start_mark.line + 1))
    reader = _Reader(name)
    values = reader.read(root, (), ())
    return Document(values, {(): Place(name), **reader.places})


def parse_scalar(text: str) -> Any:
    """Read a value of the command line as YAML; text that is no YAML (``*.tar``) stands for itself.

    Raises:
        ConfigError: For a broken list, mapping or quoted text.
    """
    try:
        root = _compose(text, "command line")
        return None if root is None else _Reader("command line").read(root, (), ())
    except ConfigError as error:
        if text.lstrip()[:1] in ("[", "{", '"', "'"):
            raise ConfigError(f"{text} is not YAML: {error.message}", Place("command line")) from error
        return text


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = _in_plain_words(error.problem or "this is no YAML", text, mark)
        place = Place(name, mark.line + 1 if mark else None)
        raise ConfigError(f"column {mark.column + 1 if mark else 1}: {problem}", place) from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply.", Place(name)) from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"holds a character that YAML does not allow ({reason}).", Place(name)) from error


def _in_plain_words(problem: str, text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    sentence = _known_problem(problem, line)
    return sentence or f"{problem}."


def _known_problem(problem: str, line: str) -> str | None:
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "a tab; YAML is indented with spaces."
    if "mapping values are not allowed" in problem:
        return "a colon where no key can stand; is the line before it complete, or the text to be quoted?"
    if "expected <block end>" in problem:
        return "this line is indented differently from those it belongs to."
    if "could not find expected ':'" in problem:
        return "a colon is missing after a key."
    if "expected a single document" in str(problem) or "but found another document" in problem:
        return "a second document (---); an experiment is one."
    return None


class _Reader:
    """Turns nodes into plain data and notes the line of each key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Keys, Place] = {}
        self.count = 0
        self.flat: set[int] = set()
        self.scalars = _Loader("")

    def read(self, node: yaml.Node, keys: Keys, parents: tuple[int, ...]) -> Any:
        self.count += 1
        if id(node) in parents or self.count > MOST_NODES:
            problem = "refers to itself" if id(node) in parents else "unfolds into too many values through its aliases"
            raise ConfigError(f"{dotted(keys)} {problem}.", self._place(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise ConfigError(f"the tag {node.tag} is not read here; leave it out.", self._place(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys, (*parents, id(node)))
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, keys, (*parents, id(node)))
        return self._scalar(node)

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.name, node.start_mark.line + 1)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            message = f"{node.tag.replace('tag:yaml.org,2002:', '!!')} is not read here; give plain text or a number."
            raise ConfigError(message, self._place(node)) from error
        # init_args is folded away, in references too
        return value.replace(".init_args.", ".") if isinstance(value, str) and "${" in value else value

    def _sequence(self, node: yaml.SequenceNode, keys: Keys, parents: tuple[int, ...]) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            inner = (*keys, str(index))
            self.places[inner] = self._place(item)
            items.append(self.read(item, inner, parents))
        return items

    def _mapping(self, node: yaml.MappingNode, keys: Keys, parents: tuple[int, ...]) -> dict[Any, Any]:
        if id(node) not in self.flat:  # an alias brings the same node again
            self._refuse_twice(node, keys)
            self._merge_keys(node)
        values: dict[Any, Any] = {}
        folded: set[Any] = set()
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key == "init_args" and not isinstance(value_node, yaml.SequenceNode):
                arguments = self.read(value_node, keys, parents) or {}
                folded = set(arguments)
                self._refuse_both(folded & set(values), keys)
                values.update(arguments)
                continue
            self._refuse_both({key} & folded, keys)
            self.places[*keys, str(key)] = self._place(key_node)
            values[key] = self.read(value_node, (*keys, str(key)), parents)
        return values

    def _key(self, node: yaml.Node) -> str | int:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError("a key is text or a number, not a list or mapping.", self._place(node))
        key = None if node.tag.endswith(":merge") else self._scalar(node)
        # not bool, which is an int: a key `no` is the language, not false
        return key if type(key) is int else str(node.value)

    def _merge_keys(self, node: yaml.MappingNode) -> None:
        """Put what `<<: *other` names before what is written here, which so wins."""
        self.flat.add(id(node))
        try:
            self.scalars.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(f"<<: {error.problem}.", self._place(node)) from error

    def _refuse_both(self, names: set[Any], keys: Keys) -> None:
        for name in sorted(names, key=str):
            message = f"{dotted((*keys, str(name)))} stands both beside and under init_args; leave one out."
            raise ConfigError(message, self.places[*keys, str(name)])

    def _refuse_twice(self, node: yaml.MappingNode, keys: Keys) -> None:
        seen: dict[Any, Place] = {}
        for key_node, _ in node.value:
            key, place = self._key(key_node), self._place(key_node)
            if key in seen:
                name = dotted((*keys, str(key)))
                raise ConfigError(f"{name} is given twice, here and in line {seen[key].line}; leave one out.", place)
            seen[key] = place
