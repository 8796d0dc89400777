"""What a sweep is made of: one YAML to its runs, every one of them checked before the first begins."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.cli.config import Experiment, find_file, load_experiment, shipped_experiments, shipped_sweeps
from clipkit.cli.document import Document, read_document
from clipkit.cli.explain import ConfigError, Keys, did_you_mean, dotted, quoted
from clipkit.cli.overrides import COMMAND_LINE, SECTIONS, Override, parse_overrides, split_key

__all__ = ["Run", "Sweep", "as_yaml", "read_sweep", "words"]

FORM = "a sweep is a mapping with base, metric, seeds, and overrides, settings or grid"
KEYS = ("base", "metric", "seeds", "overrides", "settings", "grid")
SEED = ("seed_everything",)


@dataclass(frozen=True, eq=False)
class Run:
    """One training of a sweep.

    Attributes:
        setting: What tells it from the others, but for the seed.
        seed: Its ``seed_everything``.
        key: Its name as a folder: the same as long as the base and its overrides are the same.
        overrides: What it changes in the base.
        config: Its whole configuration, as of the first seed of its setting.
    """

    setting: str
    seed: int
    key: str
    overrides: tuple[Override, ...]
    config: dict[str, Any]

    def __str__(self) -> str:
        """Return ``sigmoid, seed 0``."""
        return f"{self.setting}, seed {self.seed}"


class Sweep(NamedTuple):
    """A sweep whose every run is a valid experiment.

    Attributes:
        path: Its file.
        base: The experiment that all runs change.
        metric: What they are compared by.
        runs: In the order they are to be run in: seed by seed, so that every setting has a figure soon.
        values: The file's content.
        notes: What the user should be told of a setting.
    """

    path: Path
    base: Path
    metric: str
    runs: tuple[Run, ...]
    values: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        """The names of the settings, in the file's order."""
        return list(dict.fromkeys(run.setting for run in self.runs))


def read_sweep(name: str | None, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Sweep:
    """Read a sweep's file and check all its runs as ``clipkit fit`` would.

    Args:
        name: A path, or the name of a shipped sweep.
        overrides: Those of the command line, for every run.
        trust: As for an experiment.

    Raises:
        ConfigError: For the first mistake, with key, file and line.
    """
    shipped = shipped_sweeps()
    if name is None:
        raise ConfigError(f"-c FILE is missing: a path, or a shipped sweep: {', '.join(shipped) or 'there is none'}.")
    path = find_file(name, "sweep", shipped, "-c ", COMMAND_LINE)
    document = read_document(path, FORM)
    _check_form(document)
    values, places = document
    base = find_file(values["base"], "experiment", shipped_experiments(), "base: ", places["base",], path.parent)
    settings = _settings(document, parse_overrides(overrides))
    seeds = [Override(SEED, seed, places.get(("seeds",), COMMAND_LINE)) for seed in values.get("seeds", [0])]
    checked = {name: _checked(name, base, [*own, seeds[0]], trust) for name, own in settings.items()}
    content = as_yaml(read_document(base).values)
    runs = [_run(name, (*own, seed), checked[name].config, content) for seed in seeds for name, own in settings.items()]
    notes = [f"{name}: {note}" for name, experiment in checked.items() for note in experiment.notes]
    return Sweep(path, base, values["metric"], tuple(runs), values, tuple(notes))


def _checked(setting: str, base: Path, overrides: Sequence[Override], trust: Sequence[str]) -> Experiment:
    try:
        return load_experiment([str(base)], (), trust, overrides)
    except ConfigError as error:
        raise ConfigError(f"{error.message} (In the setting {setting}.)", error.place) from error


def words(run: Run) -> list[str]:
    """Return a run's overrides as the command line of ``clipkit fit`` takes them."""
    return [f"--{dotted(one.keys)}={as_yaml(one.value)}" for one in run.overrides]


def as_yaml(value: Any) -> str:
    """Write a value on one line, such that the command line reads it as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_yaml(key)}: {as_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value, ensure_ascii=False)


def _check_form(document: Document) -> None:
    values, places = document
    for key in values:
        if key not in KEYS:
            raise ConfigError(f"{key}: a sweep has no such key. {did_you_mean(str(key), KEYS)}", places[str(key),])
    for key, example in (("base", "emoji"), ("metric", "emoji/cells/acc1")):
        if not isinstance(values.get(key), str):
            raise ConfigError(f"{key} has to be given, as in {key}: {example}.", places.get((key,), places[()]))
    for key in ("overrides", "settings", "grid"):
        if not isinstance(values.get(key, {}), dict):
            raise ConfigError(f"{key} is {quoted(values[key])}, but a mapping is needed.", places[key,])
    _check_lists(document)


def _check_lists(document: Document) -> None:
    values, places = document
    for key, options in (("seeds", values.get("seeds", [0])), *values.get("grid", {}).items()):
        place = places.get(("grid", key), places.get((key,), places[()]))
        if not isinstance(options, list) or not options:
            raise ConfigError(f"{key} is {quoted(options)}, but a list is needed, such as [0, 1, 2].", place)
        twice = [option for number, option in enumerate(options) if option in options[:number]]
        if twice:
            raise ConfigError(f"{key}: {quoted(twice[0])} is given twice; leave one out.", place)
    for seed in values.get("seeds", []):
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"seeds: {quoted(seed)} is no whole number from 0 on.", places["seeds",])


def _settings(document: Document, further: Sequence[Override]) -> dict[str, list[Override]]:
    """Return each setting's overrides by its name: every named one at every point of the grid."""
    named: dict[Any, Any] = document.values.get("settings") or {"": {}}
    every = [*_overrides(document, "overrides"), *further]
    own = {str(name): _overrides(document, "settings", str(name)) if name != "" else [] for name in named}
    grid = _overrides(document, "grid")
    taken = {SEED: "seeds", **{one.keys: "grid" for one in grid}}
    _refuse_taken([*every, *itertools.chain(*own.values())], taken)
    _refuse_taken(grid, {SEED: "seeds"})
    settings: dict[str, list[Override]] = {}
    for (name, changes), point in itertools.product(own.items(), _points(grid)):
        label = ", ".join(part for part in (name, *point) if part) or Path(document.values["base"]).stem
        if label in settings:
            message = f"two settings would be called {label}; give them names, under settings."
            raise ConfigError(message, document.places[()])
        settings[label] = [*every, *changes, *point.values()]
    return settings


def _overrides(document: Document, *above: str) -> list[Override]:
    """Read a mapping of dotted keys to values.

    Raises:
        ConfigError: For no mapping, or a key of no section.
    """
    values: Any = document.values
    for key in above:
        values = next((value for name, value in values.items() if str(name) == key), None) or {}
    if not isinstance(values, dict):
        message = f"{dotted(above)} is {quoted(values)}, but a mapping of dotted keys to values is needed."
        raise ConfigError(message, document.places[above])
    found = []
    for key, value in values.items():
        keys, place = split_key(str(key)), document.places[(*above, str(key))]
        if keys[0] not in SECTIONS:
            known = [dotted((section, *keys[1:])) for section in SECTIONS]
            raise ConfigError(f"{key}: there is no section {keys[0]}. {did_you_mean(str(key), known)}", place)
        found.append(Override(keys, value, place))
    return found


def _refuse_taken(overrides: Sequence[Override], taken: Mapping[Keys, str]) -> None:
    for one in overrides:
        if one.keys in taken:
            message = f"{dotted(one.keys)} is given here and under {taken[one.keys]}; leave one out."
            raise ConfigError(message, one.place)


def _points(grid: Sequence[Override]) -> Iterator[dict[str, Override]]:
    """Yield the points of a grid, name to override: ``lr=0.001``, with the whole key where the last part would not do.

    Without a grid there is one point, where nothing is changed.
    """
    lasts = [one.keys[-1] for one in grid]
    names = [one.keys[-1] if lasts.count(one.keys[-1]) == 1 else dotted(one.keys) for one in grid]
    for values in itertools.product(*(one.value for one in grid)):
        chosen = [one._replace(value=value) for one, value in zip(grid, values, strict=True)]
        yield {f"{name}={_label(one.value)}": one for name, one in zip(names, chosen, strict=True)}


def _label(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        rest = {key: item for key, item in value.items() if key != "class_path"}
        name = str(value["class_path"]).split(".")[-1]
        return f"{name}({_label(rest)})" if rest else name
    return value if isinstance(value, str) else as_yaml(value).strip("{}").replace('"', "")


def _run(setting: str, overrides: tuple[Override, ...], config: dict[str, Any], base: str) -> Run:
    seed = overrides[-1].value
    said = [base, *(f"{dotted(one.keys)}={as_yaml(one.value)}" for one in overrides)]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.=-]+", "_", setting)[:60]
    return Run(setting, seed, f"{name}-seed{seed}-{digest}", overrides, config)
