from __future__ import annotations

import math
from argparse import Namespace

import numpy as np
import pytest
import torch

from clipkit.tracking.records import PARAM_LIMIT, clean_name, cut, finite_values, flatten, metric_values, renamed


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("val/image_to_text_R@1", "val/image_to_text_R_at_1"),
        ("train/loss", "train/loss"),
        ("a//b/../c/", "a/b/c"),
        ("/x", "x"),
        ("a(b)=c", "a_b__c"),
        ("@", "_at_"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_clean_name(name, clean):
    assert clean_name(name) == clean


def test_flatten():
    config = {"model": {"lr": 0.1, "pool": None, "empty": {}}, "sizes": [1, 2], "callbacks": [{"n": 1}, Namespace(m=2)]}
    assert flatten(config) == {
        "model.lr": "0.1", "model.pool": "None", "model.empty": "{}", "sizes": "[1, 2]", "callbacks.0.n": "1",
        "callbacks.1.m": "2",
    }  # fmt: skip
    assert flatten(Namespace(a=Namespace(b=1))) == {"a.b": "1"}


def test_long_values_are_cut_with_a_mark():
    value = flatten({"tokenizer": "x" * 10_000})["tokenizer"]
    assert len(value) == PARAM_LIMIT
    assert value.endswith("[cut: 10000 characters, the whole is in config.yaml]")
    assert cut("short", 10) == "short"


def test_metric_values_takes_what_is_a_number():
    metrics = {"a": torch.tensor(1.5), "b": np.float32(2), "c": 3, "d": "text", "e": torch.zeros(2), "R@5": True}
    assert metric_values(metrics) == {"a": 1.5, "b": 2.0, "c": 3.0, "R_at_5": 1.0}


def test_finite_values():
    values, odd = finite_values({"a": 1.0, "b": math.inf, "c": -math.inf, "d": math.nan})
    assert values["a"] == 1.0 and all(math.isnan(values[name]) for name in "bcd")
    assert odd == {"b": "inf", "c": "-inf", "d": "nan"}


def test_renamed():
    fresh, changed = renamed({"a": "1", "b": "3", "c": "4"}, {"a": "1", "b": "2"}, 2)
    assert fresh == {"c": "4", "b.resumed_2": "3"} and changed == ["b"]
