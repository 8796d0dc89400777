from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from torch import nn

from clipkit.cli.classes import Unimportable, arguments_of, find_object, fit_value, said_by
from clipkit.heads import ContrastiveHead
from clipkit.objectives import Objective


class Outer:
    class Inner:
        pass


class Base:
    def __init__(self, a: int, b: str = "x") -> None:
        pass


class Child(Base):
    def __init__(self, c: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_arguments_come_in_order_with_those_of_the_base():
    found = arguments_of(Child)
    assert [(name, argument.required) for name, argument in found.items()] == [("c", False), ("a", True), ("b", False)]
    assert found["b"].default == "x"
    assert found["a"].type is int


def test_arguments_of_components_and_of_the_trainer():
    assert list(arguments_of(ContrastiveHead))[:3] == ["image_width", "text_width", "embed_dim"]
    assert {"max_epochs", "callbacks", "precision"} < set(arguments_of(Trainer))
    assert arguments_of(nn.Module) == {}


def test_objects_are_found_by_their_dotted_name():
    assert find_object("clipkit.heads.ContrastiveHead") is ContrastiveHead
    assert find_object("torch.nn.functional.gelu") is nn.functional.gelu
    assert find_object("torch.nn.Linear.forward") is nn.Linear.forward


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clipkit.heads.ContrastivHead", "clipkit.heads has no ContrastivHead. Did you mean ContrastiveHead?"),
        ("clipkit.haeds.ContrastiveHead", "there is no module clipkit.haeds. Did you mean clipkit.heads?"),
        ("clipkt.heads.ContrastiveHead", "there is no module clipkt."),
        ("clipkit.heads.contrastive.more.Head", "there is no module clipkit.heads.contrastive.more."),
        ("torch.os.system", "there is no module torch.os."),
        ("InfoNCE", "a class is named with its module. Did you mean clipkit.objectives.InfoNCE?"),
        ("InfNCE", "a class is named with its module. Did you mean clipkit.objectives.InfoNCE?"),
        ("Zebra", "Zebra is no full name; a class is named with its module, as in clipkit.towers.TimmTower."),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(Unimportable) as caught:
        find_object(name, [Objective])
    assert str(caught.value) == message


def test_a_short_name_of_lightning_is_completed():
    with pytest.raises(Unimportable, match=r"Did you mean lightning\.pytorch\.callbacks\.EarlyStopping\?"):
        find_object("EarlyStoping", [Callback])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name' (broken_{}.py, line 1)."),
        ("\nx = 1 / 0\n", "division by zero (broken_{}.py, line 2)."),
        ("def f(:\n", "invalid syntax (broken_{}.py, line 1)."),
        ("{}['a']\n", "KeyError: 'a' (broken_{}.py, line 1)."),
    ],
)
def test_a_module_that_breaks_is_told_with_its_line(own_folder, monkeypatch, source, message):
    name = f"broken_{abs(hash(source))}"
    (own_folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(own_folder)
    with pytest.raises(Unimportable) as caught:
        find_object(f"{name}.X")
    number = name.removeprefix("broken_")
    assert str(caught.value) == f"{name} cannot be imported: {message.replace('{}', number)}"
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (3, int, True),
        ("3", int, True),
        (2.5, int, False),
        (True, int, False),
        (3, float, True),
        (3, str, False),
        ([1, 2], tuple[float, float], True),
        ([1], tuple[float, float], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        (None, int | None, True),
        (["x"], Any, True),
    ],
)
def test_values_are_judged_by_jsonargparse(value, annotation, fits):
    if fits:
        fit_value(value, annotation)
    else:
        with pytest.raises(ValueError, match=r"."):
            fit_value(value, annotation)


def test_a_value_comes_back_as_it_is_read():
    assert fit_value([32, 32], tuple[int, int]) == (32, 32)
    assert fit_value("1e-3", float) == 0.001


def test_exceptions_in_one_sentence():
    assert said_by(ValueError("a\n  b.")).startswith("a b")
    assert said_by(ValueError()).startswith("ValueError")
    assert said_by(KeyError("k")).startswith("KeyError: 'k'")
