"""One contract for every objective, and each one's own words."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import clipkit.objectives
from clipkit.functional import info_nce, sigmoid_loss
from clipkit.models import build, describe
from clipkit.objectives import InfoNCE, Objective, Sigmoid, Sum
from clipkit.types import ArgumentError, Embeddings, ObjectiveOutput

CASES = {
    "InfoNCE": lambda: InfoNCE(),
    "Sigmoid": lambda: Sigmoid(),
    "Sum": lambda: Sum({"nce": InfoNCE(), "pairs": Sigmoid()}, {"pairs": 0.25}),
}


class Three(NamedTuple):
    """Outputs with a third modality."""

    image: Tensor
    text: Tensor
    sound: Tensor
    logit_scale: Tensor
    sound_scale: Tensor


def unit(rows, seed):
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1).requires_grad_()


@pytest.fixture
def outputs():
    return Embeddings(
        unit(6, 0), unit(6, 1), torch.tensor([9.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    )


@pytest.fixture
def batch(make_batch):
    return make_batch(6, [1, 2, 1, 3, 4, 5])


def test_every_exported_objective_is_in_this_contract():
    exported = {name for name in clipkit.objectives.__all__ if name != "Objective"}
    assert exported == set(CASES)
    assert all(issubclass(getattr(clipkit.objectives, name), Objective) for name in exported)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_a_scalar_with_every_gradient(name, outputs, batch):
    result = CASES[name]()(outputs, batch)
    assert isinstance(result, ObjectiveOutput)
    assert result.loss.shape == () and torch.isfinite(result.loss)
    assert not any(value.requires_grad for value in result.logs.values())
    result.loss.backward()
    read = [*outputs[:3], *([] if name == "InfoNCE" else [outputs.logit_bias])]
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in read)


@pytest.mark.parametrize("name", CASES)
def test_description_makes_it_again(name, outputs, batch):
    objective = CASES[name]()
    other = build(json.loads(json.dumps(describe(objective))))
    assert type(other) is type(objective)
    assert torch.equal(other(outputs, batch).loss, objective(outputs, batch).loss)
    assert name in repr(objective)


@pytest.mark.parametrize("name", CASES)
def test_training_gathers_and_validation_does_not(name):
    objective = CASES[name]()
    assert objective.gathers()
    assert not objective.eval().gathers()


def test_each_is_its_pure_function(outputs, batch):
    image, text, scale, bias = outputs
    assert torch.equal(InfoNCE()(outputs, batch).loss, info_nce(image, text, scale, concept=batch.concept))
    assert torch.equal(Sigmoid()(outputs, batch).loss, sigmoid_loss(image, text, scale, bias, concept=batch.concept))


def test_rows_of_their_own_concept_are_the_plain_loss(outputs, make_batch):
    assert torch.allclose(InfoNCE()(outputs, make_batch(6)).loss, info_nce(*outputs[:3]))


def test_fields_go_by_name(batch):
    outputs = Three(unit(6, 0), unit(6, 1), unit(6, 2), torch.tensor([9.0]), torch.tensor([4.0]))
    loss = InfoNCE(first="image", second="sound", scale="sound_scale")(outputs, batch).loss
    assert torch.equal(loss, info_nce(outputs.image, outputs.sound, outputs.sound_scale, concept=batch.concept))


def test_a_field_the_model_does_not_make():
    with pytest.raises(AttributeError, match="sound"):
        InfoNCE(second="sound")(Embeddings(*torch.zeros(4, 2, 2)), None)


def test_sigmoid_needs_a_bias(outputs, batch):
    with pytest.raises(ValueError, match="give the head `init_logit_bias`"):
        Sigmoid()(outputs._replace(logit_bias=None), batch)


def test_sum_adds_weights_and_logs_its_parts(outputs, batch):
    inner = Sum({"again": InfoNCE()})
    result = Sum({"nce": InfoNCE(), "pairs": Sigmoid(), "inner": inner}, {"pairs": 0.5})(outputs, batch)
    nce, pairs = InfoNCE()(outputs, batch).loss, Sigmoid()(outputs, batch).loss
    torch.testing.assert_close(result.loss, 2 * nce + 0.5 * pairs)
    assert sorted(result.logs) == ["inner", "inner/again", "nce", "pairs"]
    torch.testing.assert_close(result.logs["pairs"], pairs.detach())


def test_sum_refuses_what_is_wrong():
    with pytest.raises(ArgumentError, match="objectives: name at least one"):
        Sum({})
    with pytest.raises(ArgumentError, match="weights: 'nc' is no objective here; there are nce"):
        Sum({"nce": InfoNCE()}, {"nc": 1.0})
