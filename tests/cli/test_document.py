"""Reading a file: its values as YAML has them less the traps, its lines, and its faults in one line each."""

from __future__ import annotations

import math
import sys

import pytest

from clipkit.cli.document import parse_scalar, read_document
from clipkit.cli.explain import ConfigError, Place


@pytest.fixture
def read(own_folder):
    def read(text, encoding="utf-8"):
        (own_folder / "a.yaml").write_bytes(text.encode(encoding))
        return read_document(own_folder / "a.yaml")

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E4", 15000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("-3", -3),
        ("0x1F", 31),
        ("true", True),
        ("~", None),
        ("", None),
        ("010", "010"),
        ("12:30:00", "12:30:00"),
        ("2026-01-02", "2026-01-02"),
        ("1f600", "1f600"),
        ("'3'", "3"),
        ("-.inf", -math.inf),
        ("[1, a]", [1, "a"]),
        ("{a: 1e2}", {"a": 100.0}),
        ("*.tar", "*.tar"),
        ("%d images", "%d images"),
        ("a: b: c", "a: b: c"),
        ("@x", "@x"),
    ],
)
def test_values_of_the_command_line(text, value):
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", '"open'])
def test_broken_brackets_of_the_command_line_are_told(text):
    with pytest.raises(ConfigError, match=r"command line: .* is not YAML"):
        parse_scalar(text)


def test_every_key_and_item_has_its_line(read):
    found = read("# first\nmodel:\n  lr: 1\n  list:\n    - a\n    - {b: 2,\n       c: 3}\n").places
    lines = {".".join(keys): place.line for keys, place in found.items()}
    assert lines == {
        "": None,
        "model": 2,
        "model.lr": 3,
        "model.list": 4,
        "model.list.0": 5,
        "model.list.1": 6,
        "model.list.1.b": 6,
        "model.list.1.c": 7,
    }
    assert found["model",] == Place("a.yaml", 2)


def test_init_args_are_folded_away_in_keys_and_references(read):
    document = read("data:\n  class_path: A\n  init_args:\n    x: 1\n  y: ${data.init_args.x}\nb: {init_args: }\n")
    assert document.values == {"data": {"class_path": "A", "x": 1, "y": "${data.x}"}, "b": {}}
    assert document.places["data", "x"].line == 4


def test_aliases_and_merge_keys(read):
    document = read("a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\nd: {<<: *a}\n")
    assert document.values == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
        "d": {"x": 1, "y": 2},
    }


def test_keys_are_text_or_numbers(read):
    assert read("a: {no: 1, 4: 2, 1.5: 3}").values == {"a": {"no": 1, 4: 2, "1.5": 3}}


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml, line 3: a is given twice, here and in line 1; leave one out."),
        ("m:\n  x: 1\n  x: 1\n", "a.yaml, line 3: m.x is given twice, here and in line 2; leave one out."),
        (
            "m:\n  x: 1\n  init_args: {x: 1}\n",
            "a.yaml, line 3: m.x stands both beside and under init_args; leave one out.",
        ),
        (
            "m:\n  init_args: {x: 1}\n  x: 1\n",
            "a.yaml, line 2: m.x stands both beside and under init_args; leave one out.",
        ),
        ("a:\n\tb: 1\n", "a.yaml, line 2: column 1: a tab; YAML is indented with spaces."),
        ("a:\n   b: 1\n  c: 2\n", "line 3: column 3: this line is indented differently from those it belongs to."),
        ("a: b: c\n", "a.yaml, line 1: column 5: a colon where no key can stand"),
        ("a: [1\nb: 2\n", "a.yaml, line 2: column 2: expected ',' or ']', but got ':'."),
        ("a\nb: 1\n", "a.yaml, line 2: column 2: "),
        ("", "a.yaml: is empty; an experiment is a mapping"),
        ("# nothing\n", "a.yaml: is empty"),
        ("- a\n", "a.yaml, line 1: is a list; an experiment is a mapping"),
        ("hello\n", "a.yaml, line 1: is a single value; an experiment is a mapping"),
        ("a: 1\n---\nb: 2\n", "a.yaml, line 2: column 1: a second document (---); an experiment is one."),
        ("a: !!python/name:os.system\n", "a.yaml, line 1: !!python/name:os.system is not read here"),
        ("a: !!python/object/apply:os.system [ls]\n", "python/object/apply:os.system is not read here; leave it out."),
        ("a: &a [*a]\n", "a.yaml, line 1: a.0 refers to itself."),
        (BOMB, "unfolds into too many values through its aliases."),
        ("? [a]\n: b\n", "a.yaml, line 1: a key is text or a number, not a list or mapping."),
        ("a: {<<: 3}\n", "a.yaml, line 1: <<: expected a mapping"),
        ("a: \x07\n", "a.yaml: holds a character that YAML does not allow"),
        ("[" * (sys.getrecursionlimit() + 1), "a.yaml: is nested too deeply."),
    ],
)
def test_faults_of_a_file_are_told_with_their_line(read, text, message):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_told(read):
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read("a: é", encoding="latin-1")


def test_a_folder_is_told(own_folder):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(own_folder)
