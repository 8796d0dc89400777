"""What takes minutes: the shipped experiment to its end, and its figures against what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

PROMISED = {
    "emoji/cells": {"acc1": 0.35, "acc5": 0.65},
    "emoji/style": {"acc1": 0.05, "acc5": 0.14},
    "emoji/concepts": {"acc5": 10 * 5 / 1914, "acc1_among_heldout": 3 / 95},
    "emoji/groups": {"acc1": 3 / 98},
}


def test_emoji_reaches_what_it_promises():
    from clipkit.cli import main

    assert main(["fit", "-c", "emoji", "--tracking-uri=sqlite:///mlflow.db"]) == 0
    (checkpoint,) = Path("runs").glob("**/last.ckpt")
    assert main(["evaluate", str(checkpoint), "--tasks", *PROMISED, "--json", "out.json"]) == 0
    figures = json.loads(Path("out.json").read_text(encoding="utf-8"))
    missed = {
        f"{task} {metric}": figures[task][metric]
        for task, promises in PROMISED.items()
        for metric, least in promises.items()
        if figures[task][metric] < least
    }
    assert missed == {}
