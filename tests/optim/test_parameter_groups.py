"""What trains, at which rate, and what decays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipkit.optim import parameter_groups, set_trainable
from clipkit.types import ArgumentError


class Child(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.stack = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4)

    def blocks(self):
        groups = [list(self.stem.parameters()), *(list(block.parameters()) for block in self.stack)]
        groups[-1] += list(self.norm.parameters())
        return groups


@pytest.fixture
def model():
    made = nn.Module()
    made.vision, made.text = Child(), Child()
    made.head = nn.Linear(4, 4)
    made.head.logit_scale = nn.Parameter(torch.zeros(1))
    return made


def trained(module):
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def names_in(group, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_exactly_two_groups(model):
    decay, rest = parameter_groups(model, lr=1e-3, weight_decay=0.2)
    assert (decay["name"], decay["weight_decay"], decay["lr"]) == ("decay", 0.2, 1e-3)
    assert (rest["name"], rest["weight_decay"], rest["lr"]) == ("no_decay", 0.0, 1e-3)
    assert all(parameter.ndim > 1 for parameter in decay["params"])
    assert all(parameter.ndim == 1 for parameter in rest["params"])
    assert "head.logit_scale" in names_in(rest, model)
    assert len(decay["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_two_groups_a_rate_whatever_the_number_of_children(model):
    scale = {"vision": 0.1, "text": 0.1, "head": 1.0}
    groups = {group["name"]: group for group in parameter_groups(model, 1.0, 0.2, scale)}
    assert sorted(groups) == ["decay", "decay_x0.1", "no_decay", "no_decay_x0.1"]
    assert groups["decay_x0.1"]["lr"] == groups["no_decay_x0.1"]["lr"] == pytest.approx(0.1)
    assert names_in(groups["decay"], model) == {"head.weight"}


def test_frozen_parameters_are_left_out(model):
    set_trainable(model, {"vision": "none"})
    groups = parameter_groups(model, 1.0, 0.2)
    assert not any(name.startswith("vision") for group in groups for name in names_in(group, model))


def test_others_join_the_groups_of_the_plain_rate(model):
    other = nn.Linear(2, 2)
    groups = parameter_groups(model, 1.0, 0.2, {"vision": 0.5}, others=[other, nn.Identity()])
    assert len(groups) == 4
    (decay,) = (group for group in groups if group["name"] == "decay")
    assert any(parameter is other.weight for parameter in decay["params"])


def test_a_parameter_of_two_children_comes_once(model):
    model.text.stem.weight = model.vision.stem.weight
    groups = parameter_groups(model, 1.0, 0.2)
    assert sum(parameter is model.vision.stem.weight for group in groups for parameter in group["params"]) == 1


@pytest.mark.parametrize("function", [parameter_groups, set_trainable])
def test_an_unknown_child_is_refused_with_the_nearest(model, function):
    arguments = (1.0, 0.2, {"vison": 0.1}) if function is parameter_groups else ({"vison": "none"},)
    with pytest.raises(ArgumentError, match=r"no child 'vison'; did you mean 'vision'\? \(it has vision, text, head\)"):
        function(model, *arguments)


@pytest.mark.parametrize("scale", [0, -1])
def test_a_factor_must_be_above_0(model, scale):
    with pytest.raises(ArgumentError, match="lr_scale: text"):
        parameter_groups(model, 1.0, 0.2, {"text": scale})


def test_none_and_all(model):
    set_trainable(model, {"vision": "none", "text": "all"})
    assert trained(model.vision) == []
    assert len(trained(model.text)) == len(list(model.text.parameters()))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (0, []),
        (1, ["stack.2.weight", "stack.2.bias", "norm.weight", "norm.bias"]),
        (2, ["stack.1.weight", "stack.1.bias", "stack.2.weight", "stack.2.bias", "norm.weight", "norm.bias"]),
    ],
)
def test_the_last_blocks_and_what_follows_them(model, blocks, expected):
    set_trainable(model, {"text": blocks})
    assert trained(model.text) == expected
    assert len(trained(model.vision)) == len(list(model.vision.parameters()))


def test_what_is_frozen_stays_so(model):
    model.head.logit_scale.requires_grad_(False)
    set_trainable(model, {"head": "all"})
    assert trained(model.head) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ({"text": 4}, "text has 3 blocks, fewer than 4: give `all`"),
        ({"text": "half"}, "text: 'half' is not `all`, `none` or a number of blocks"),
        ({"text": True}, "text: True is not"),
        ({"text": -1}, "text: -1 is not"),
        ({"head": 1}, "head has no blocks: give `all` or `none`"),
        ({"vision": "none", "text": "none", "head": "none"}, "nothing of the model is left to train"),
    ],
)
def test_wrong_words(model, trainable, message):
    with pytest.raises(ArgumentError, match=message):
        set_trainable(model, trainable)
