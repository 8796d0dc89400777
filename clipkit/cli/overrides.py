"""What is changed on the command line: ``--data.batch_size=64``, ``--data.batch_size 64`` or ``data.batch_size=64``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from clipkit.cli.document import parse_scalar
from clipkit.cli.explain import ConfigError, Keys, Place, did_you_mean

__all__ = ["COMMAND_LINE", "SECTIONS", "Override", "parse_overrides", "split_key"]

COMMAND_LINE = Place("command line")

SECTIONS = ("seed_everything", "model", "data", "trainer")
"""The sections of an experiment."""

OPTIONS = ["--config", "--trust", "--print_config", "--dry-run", "--resume", "--checkpoint"]
"""What else a command with an experiment takes, to be thought of when a word is not known."""

_KEY = re.compile(r"(?P<dashes>--)?(?P<key>[A-Za-z_][\w-]*(?:\.[\w-]+)*)(?:=(?P<value>.*))?$", re.DOTALL)


class Override(NamedTuple):
    """One value that takes the place of what the files say.

    Attributes:
        keys: Where it goes; an index for an item of a list.
        value: The value, read as YAML.
        place: Where it was written.
    """

    keys: Keys
    value: Any
    place: Place = COMMAND_LINE


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Read what is left of the command line after the command's own options.

    Raises:
        ConfigError: For a word that is no override, a key without a value, or an unknown section.
    """
    overrides: list[Override] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = _KEY.match(word)
        if match is None or (match["dashes"] is None and match["value"] is None):
            raise ConfigError(_stray(word), COMMAND_LINE)
        value = match["value"]
        _refuse_unknown(match["key"], word)
        if value is None:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{word} needs a value: {word}=VALUE.", COMMAND_LINE)
            value = rest.pop(0)
        overrides.append(Override(split_key(match["key"]), parse_scalar(value)))
    return overrides


def split_key(key: str) -> Keys:
    """Take a dotted key apart; ``init_args`` may be written in it or left out, as in a file."""
    return tuple(part for part in key.split(".") if part != "init_args")


def _refuse_unknown(key: str, word: str) -> None:
    section = key.split(".")[0]
    if section in SECTIONS:
        return
    rest = key[len(section) :]
    known = [f"--{name}{rest}" for name in SECTIONS] + ([] if rest else OPTIONS)
    message = f"{word.split('=')[0]} is not known. {did_you_mean(f'--{key}', known)}"
    raise ConfigError(message, COMMAND_LINE)


def _stray(word: str) -> str:
    if word.startswith("-"):
        return f"{word} is no option of this command; a value is changed with --section.key=VALUE."
    return f"{word} stands alone; an experiment is given with -c {word}, a value with --section.key=VALUE."
