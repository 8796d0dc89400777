"""Benchmarks as plain data: the shipped ones, and a user's own file."""

from __future__ import annotations

import pytest

from clipkit.evaluation import ZeroShotEvaluator, check_tasks, make_evaluator, read_tasks
from clipkit.types import ArgumentError

EMOJI = ("emoji/cells", "emoji/style", "emoji/concepts", "emoji/groups")


def test_the_emoji_tasks_are_shipped_and_can_be_built():
    tasks = read_tasks()
    assert set(EMOJI) <= set(tasks)
    for task in tasks.values():
        assert callable(make_evaluator(task))


@pytest.mark.parametrize("task", EMOJI[:3])
def test_every_concept_is_a_candidate(task):
    evaluator = make_evaluator(read_tasks()[task])
    assert isinstance(evaluator, ZeroShotEvaluator)
    names, target, narrower = evaluator.candidates
    assert len(set(names)) == 1914
    assert "grinning face" in names
    assert len(target) == {"emoji/cells": 814, "emoji/style": 1819, "emoji/concepts": 550}[task]
    assert {key: len(part) for key, part in narrower.items()} == ({"heldout": 95} if task == "emoji/concepts" else {})


def test_groups_are_subgroup_names_on_the_images_of_cells():
    tasks = read_tasks()
    cells, groups = (make_evaluator(tasks[f"emoji/{name}"]) for name in ("cells", "groups"))
    names, target, _ = groups.candidates
    assert len(names) == 98
    assert len(target) == len(cells.candidates.target)
    assert not {"face smiling"} - set(names)


def test_overrides_replace_what_is_declared():
    task = read_tasks()["emoji/groups"]
    assert make_evaluator(task).batch_size == 256
    assert make_evaluator(task, batch_size=3).batch_size == 3


def test_a_file_of_ones_own(own_folder, monkeypatch):
    (own_folder / "my_evaluators.py").write_text(
        "class Constant:\n    def __init__(self, value):\n        self.value = value\n"
        "    def __call__(self, model):\n        return {'value': self.value}\n"
    )
    (own_folder / "mine.yaml").write_text(
        "mine/beside: {class_path: my_evaluators.Constant, value: 1.0}\n"
        "mine/under: {class_path: my_evaluators.Constant, init_args: {value: 2.0}}\n"
    )
    monkeypatch.syspath_prepend(own_folder)
    tasks = read_tasks(["mine.yaml"])
    assert set(EMOJI) < set(tasks)
    for name, value in (("mine/beside", 1.0), ("mine/under", 2.0)):
        assert make_evaluator(tasks[name], trust=["my_evaluators"])(None) == {"value": value}
        with pytest.raises(ArgumentError, match=r"mine.yaml names my_evaluators.Constant.*as trusted"):
            make_evaluator(tasks[name])
        with pytest.raises(ArgumentError, match="trusted"):
            make_evaluator(tasks[name], trust=["my"])  # a module's name begins like it, that is all


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(ArgumentError, match="no task 'emoji/cell'; did you mean 'emoji/cells'"):
        check_tasks(["emoji/style", "emoji/cell"], read_tasks())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: {rows: emoji/cells}", "needs a class_path"),
        ("mine: {class_path: [}", "no YAML of tasks"),
        ("mine: 1\nmine: 2", "no YAML of tasks.*duplicate key"),
        ("- mine", "no YAML of tasks"),
        ("mine: {class_path: a.B, rows: '${nothing}'}", "no YAML of tasks.*nothing"),
        ("mine: 3", "needs a class_path"),
        ("mine: {class_path: clipkit.evaluation.ZeroShotEvaluater}", "cannot be imported"),
        ("mine: {class_path: clipkit.nowhere.ZeroShotEvaluator}", "cannot be imported"),
        ("mine: {class_path: clipkit.evaluation.ZeroShotEvaluator, rows: emoji/cells}", "missing.*'label'"),
        ("mine: {class_path: clipkit.evaluation.ZeroShotEvaluator, rows: emoji, label: name, labels: x}", "'labels'"),
        ("mine: {class_path: clipkit.evaluation.ZeroShotEvaluator, rows: emoji/cel, label: name}", "no split 'cel'"),
        ("mine: {class_path: clipkit.evaluation.ZeroShotEvaluator, rows: emoji, label: nam}", "no column 'nam'"),
        ("mine: {class_path: clipkit.evaluation.RetrievalEvaluator, rows: emoji, batch_size: 0}", "0 is less than 1"),
    ],
)
def test_a_mistake_in_a_file_is_named(own_folder, text, message):
    (own_folder / "mine.yaml").write_text(text)
    with pytest.raises(ArgumentError, match=message) as caught:
        make_evaluator(read_tasks(["mine.yaml"])["mine"])
    assert "mine.yaml" in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ArgumentError, match=r"no file 'mine\.yaml'"):
        read_tasks(["mine.yaml"])
