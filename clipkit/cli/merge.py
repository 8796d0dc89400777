"""Several files and overrides into one configuration; references are resolved once, after the overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipkit.cli.document import Document
from clipkit.cli.explain import ConfigError, Keys, Place, did_you_mean, dotted, quoted
from clipkit.cli.overrides import Override

__all__ = ["Merged", "Replaced", "merge", "place_of"]

Node = DictConfig | ListConfig


class Replaced(NamedTuple):
    """A class that a later source put in the place of another.

    Attributes:
        old: The class path before.
        place: Where it was named.
        arguments: What had been given to the old class and not to the new one.
    """

    old: str
    place: Place | None
    arguments: frozenset[str]


class Merged(NamedTuple):
    """One configuration, every reference resolved.

    Attributes:
        values: Plain dicts, lists and scalars.
        places: Every key to where its value was last given.
        replaced: By the key of a class, what it took the place of.
        unresolved: References to what is not there, null in ``values``: often the other key is the misspelt one.
    """

    values: dict[str, Any]
    places: dict[Keys, Place]
    replaced: dict[Keys, Replaced]
    unresolved: dict[Keys, ConfigError]


def merge(documents: Sequence[Document], overrides: Sequence[Override]) -> Merged:
    """Merge files in order, then overrides, then resolve ``${...}``.

    Mappings are merged key by key; lists and scalars are replaced. Resolvers (``${oc.env:...}``) are refused: what is
    resolved is printed, logged and saved with the run, and no secret of the environment may get there.

    Raises:
        ConfigError: For an override that fits nowhere, or a reference that cannot be read.
    """
    config = OmegaConf.create({})
    merged = Merged({}, {}, {}, {})
    for document in documents:
        with _explained(document.places):
            addition = OmegaConf.create(document.values)
        _note_replaced(config, document.values, (), merged)
        config = OmegaConf.merge(config, addition)  # type: ignore[assignment]  # two mappings make a mapping
        merged.places.update(document.places)
    for override in overrides:
        _apply(config, override, merged)
    return merged._replace(values=_resolved(config, merged))


def place_of(keys: Keys, places: Mapping[Keys, Place]) -> Place | None:
    """Return where a key, or else the nearest one above it, was written."""
    while keys and keys not in places:
        keys = keys[:-1]
    return places.get(keys)


def _child(node: Any, key: str) -> Any:
    """Return a child without resolving it; None where there is none."""
    if isinstance(node, ListConfig) and key.isdecimal() and int(key) < len(node):
        return node._get_node(int(key))
    if isinstance(node, DictConfig):
        found = node._get_node(key)
        return node._get_node(int(key)) if found is None and key.isdecimal() else found
    return None


def _note_replaced(node: Any, addition: Any, keys: Keys, merged: Merged) -> None:
    """Note each class that ``addition`` names in the place of another."""
    if not isinstance(addition, Mapping) or not isinstance(node, Node):
        return
    given = {str(name) for name in addition}
    if isinstance(node, DictConfig) and "class_path" in given and "class_path" in node:
        old, new = str(node._get_node("class_path")), addition["class_path"]
        if old != new:
            before = merged.replaced[keys].arguments if keys in merged.replaced else frozenset()
            arguments = before | {str(name) for name in node if name != "class_path"}
            merged.replaced[keys] = Replaced(old, merged.places.get((*keys, "class_path")), arguments)
    if keys in merged.replaced:
        known = merged.replaced[keys]
        merged.replaced[keys] = known._replace(arguments=known.arguments - given)
    for name, value in addition.items():
        _note_replaced(_child(node, str(name)), value, (*keys, str(name)), merged)


def _apply(config: DictConfig, override: Override, merged: Merged) -> None:
    keys, value, place = override
    node = _make_way(config, override, merged.places)
    addition: Any = value
    for key in reversed(keys):
        addition = {key: addition}
    _note_replaced(config, addition, (), merged)
    both = isinstance(node, DictConfig) and isinstance(value, dict)
    with _explained({(): place}):
        OmegaConf.update(config, dotted(keys), value, merge=both, force_add=True)
    if not both:
        for known in [known for known in merged.places if known[: len(keys)] == keys]:
            del merged.places[known]
    merged.places[keys] = place
    merged.places.update({(*keys, *inner): place for inner in _inner_keys(value)})


def _make_way(config: DictConfig, override: Override, places: Mapping[Keys, Place]) -> Any:
    """Return what stands at a key now; refuse a key below a plain value, or outside a list by more than one."""
    node: Any = config
    keys = override.keys
    for depth, key in enumerate(keys):
        above = dotted(keys[:depth])
        if isinstance(node, ListConfig) and not (key.isdecimal() and int(key) <= len(node)):
            items = f"items 0 to {len(node) - 1}" if len(node) else "no items"
            raise ConfigError(f"{dotted(keys)}: {above} is a list with {items}.", override.place)
        if isinstance(node, ListConfig) and int(key) == len(node):
            node.append({} if depth < len(keys) - 1 else None)  # one past the end makes a new item
        if node is not None and not isinstance(node, Node) and node._value() is not None:
            plain = f"{quoted(node._value())} ({place_of(keys[:depth], places)})"
            raise ConfigError(f"{dotted(keys)}: {above} is {plain}, with nothing below it.", override.place)
        node = _child(node, key)
    return node


def _inner_keys(value: Any) -> Iterator[Keys]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (str(key),)
        yield from ((str(key), *rest) for rest in _inner_keys(inner))


def _resolved(config: DictConfig, merged: Merged) -> dict[str, Any]:
    places = merged.places
    for keys, parent, name in list(_leaves(config, ())):
        text = parent._get_node(name)._value()
        if text == "???":
            raise ConfigError(f"{dotted(keys)} has to be given: --{dotted(keys)}=VALUE.", place_of(keys, places))
        if isinstance(text, str) and "${" in text:
            _refuse_resolvers(text, keys, places)
            try:
                with _explained(places, keys, config):
                    parent[name]  # one by one, so that a failure is known by its key
            except ConfigError as error:
                merged.unresolved[keys] = error
    for keys in merged.unresolved:
        OmegaConf.update(config, dotted(keys), None)
    with _explained(places):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]  # a mapping, as the config is


def _leaves(node: Node, keys: Keys) -> Iterator[tuple[Keys, Any, Any]]:
    """Yield the key, the container and the container's own key of every value that is no container itself."""
    names: list[Any] = list(range(len(node))) if isinstance(node, ListConfig) else list(node)
    for name in names:
        child: Any = node._get_node(name)
        if isinstance(child, Node) and not isinstance(child._value(), str):
            yield from _leaves(child, (*keys, str(name)))
        else:
            yield (*keys, str(name)), node, name


def _refuse_resolvers(text: str, keys: Keys, places: Mapping[Keys, Place]) -> None:
    """Refuse ``${name:...}`` in every nesting: only a resolver has a colon between its braces."""
    depth = 0
    for token in re.finditer(r"(\\*)(\$\{)|[:}]", text):
        if token[2]:
            depth += len(token[1]) % 2 == 0  # an odd number of backslashes escapes it
        elif token[0] == "}":
            depth = max(0, depth - 1)
        elif depth:
            key = dotted(keys)
            message = (
                f"{key}: {quoted(text)} is not read. ${{section.key}} stands for another value; a value of the "
                f'environment is given by the shell, --{key}="$NAME", and is logged with the run like any other.'
            )
            raise ConfigError(message, place_of(keys, places))


@contextmanager
def _explained(places: Mapping[Keys, Place], keys: Keys = (), config: DictConfig | None = None) -> Iterator[None]:
    """Turn OmegaConf's errors into one sentence about the key."""
    try:
        yield
    except (OmegaConfBaseException, RecursionError) as error:
        keys = keys or _split(getattr(error, "full_key", None) or "")
        message = _sentence(error, config)
        place = place_of(keys, places) or places.get(())
        raise ConfigError(f"{dotted(keys)}: {message}" if keys else message, place) from error


def _sentence(error: Exception, config: DictConfig | None) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, RecursionError) or "ecursive interpolation" in text:
        return "${...} refers to itself."
    if missing := re.search(r"Interpolation key '(.+?)' not found", text):
        known = [dotted(keys) for keys in _inner_keys(OmegaConf.to_container(config))] if config is not None else []
        return f"${{{missing[1]}}} refers to a key that is not given. {did_you_mean(missing[1], known)}"
    return f"the ${{...}} in it cannot be read ({text[:80]})." if "$" in text else f"{text[:160]}."


def _split(full_key: str) -> Keys:
    return tuple(part for part in re.split(r"[.\[\]]+", full_key) if part)
