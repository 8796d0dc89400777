"""Results as a table and as JSON."""

from __future__ import annotations

import io
import json
import math

from rich.console import Console

from clipkit.evaluation import to_json, to_table

RESULTS = {"emoji/cells": {"acc1": 1 / 3, "acc5": 0.5}, "emoji/concepts": {"acc1_among_heldout": 0.25}}


def test_json_keeps_every_digit():
    assert json.loads(to_json(RESULTS)) == RESULTS


def test_json_says_null_for_what_is_no_number():
    text = to_json({"task": {"a": math.nan, "b": -math.inf, "c": 0.5}})
    assert json.loads(text) == {"task": {"a": None, "b": None, "c": 0.5}}


def test_table_has_every_value_in_a_narrow_terminal():
    out = io.StringIO()
    Console(file=out, width=60).print(to_table(RESULTS, title="results"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    for words in (
        ("emoji/cells", "acc1", "0.3333"),
        ("acc5", "0.5000"),
        ("emoji/concepts", "acc1_among_heldout", "0.2500"),
    ):
        assert any(all(word in line for word in words) for line in lines)
