from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from clipkit.cli.explain import ConfigError, Place, did_you_mean, dotted, nearest, quoted, type_in_words


class Tower:
    pass


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (str | None, "text or null"),
        (float | None, "a number or null"),
        (int | str | None, "a whole number, text or null"),
        (list[str], "a list of texts"),
        (tuple[float, float], "a list of 2 numbers"),
        (tuple[int, ...], "a list of whole numbers"),
        (Iterable[Tower], "a list of Tower"),
        (list, "a list"),
        (Mapping[str, Any], "a mapping"),
        (Callable[[int], Tower], "a class or function that makes a Tower"),
        (Callable, "a class or function"),
        (Tower, "a Tower"),
        (Path | str, "a path or text"),
        (timedelta, "a timedelta"),
        (Literal["a", "b"] | None, "one of a, b or null"),
        (Literal[16, 32] | Literal["16", "bf16"] | None, "one of 16, 32, bf16 or null"),
        (Annotated[int, "positive"], "a whole number"),
        (bool, "true or false"),
    ],
)
def test_types_are_said_in_words(annotation, words):
    assert type_in_words(annotation) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1, "1"),
        ("a b", '"a b"'),
        (["x", 1], '["x", 1]'),
        ("x" * 99, '"' + "x" * 44 + "..."),
    ],
)
def test_values_are_shown_as_in_yaml_and_cut(value, shown):
    assert quoted(value) == shown


def test_the_nearest_name():
    names = ["max_epochs", "min_epochs", "precision"]
    assert nearest("max_epoch", names) == "max_epochs"
    assert nearest("Max-Epochs", names) == "max_epochs"
    assert nearest("zzz", names) is None
    assert did_you_mean("persicion", names) == "Did you mean precision?"
    assert did_you_mean("zzz", names) == "There are max_epochs, min_epochs, precision."
    assert did_you_mean("zzz", [f"a{i}" for i in range(20)]).endswith("and more.")
    assert did_you_mean("zzz", []) == "It takes none."


def test_the_place_comes_first():
    assert str(ConfigError("it is wrong.", Place("a.yaml", 3))) == "a.yaml, line 3: it is wrong."
    assert str(ConfigError("it is wrong.", Place("command line"))) == "command line: it is wrong."
    assert str(ConfigError("it is wrong.")) == "it is wrong."
    assert dotted(("a", "0", "b")) == "a.0.b"
