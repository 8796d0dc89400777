"""The sigmoid loss against open_clip's and a slow transcription, in value and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import SigLipLoss
from torch.nn.functional import normalize

from clipkit.functional import sigmoid_loss, sigmoid_loss_rows

CONCEPTS = [3, 1, 3, 2, 1, 3, 9]


@pytest.fixture
def leaves(leaves):
    """The bias too."""
    return (*leaves, torch.tensor([-4.0], dtype=torch.float64, requires_grad=True))


def slow_sigmoid(image, text, scale, bias, concept):
    """Every pair a yes or no."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            sign = 1 if concept[i] == concept[j] else -1
            total += math.log1p(math.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(image)


def test_equals_open_clip(leaves, value_and_gradients):
    mine, theirs = value_and_gradients(sigmoid_loss, leaves), value_and_gradients(SigLipLoss(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("concept", [CONCEPTS, list(range(7)), [0] * 7])
def test_several_positives_against_the_slow_reference(leaves, concept):
    image, text, scale, bias = (leaf.detach() for leaf in leaves)
    image, text = normalize(image, dim=-1), normalize(text, dim=-1)
    loss = sigmoid_loss(image, text, scale.exp(), bias, concept=torch.tensor(concept))
    slow = slow_sigmoid(image.numpy(), text.numpy(), float(scale.exp()), float(bias), concept)
    assert float(loss) == pytest.approx(slow, abs=1e-10)


def test_distinct_concepts_change_nothing(leaves, value_and_gradients):
    ids = torch.tensor([5, 4, 6, 1, 0, 2, 8])
    mine = value_and_gradients(lambda *args: sigmoid_loss(*args, concept=ids), leaves)
    for a, b in zip(mine, value_and_gradients(sigmoid_loss, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradcheck(leaves):
    ids = torch.tensor(CONCEPTS)
    assert torch.autograd.gradcheck(lambda i, t, s, b: sigmoid_loss(i, t, s.exp(), b, concept=ids), leaves)


@pytest.mark.parametrize("concept", [None, torch.tensor([1, 2, 1, 3, 2, 1])])
def test_the_mean_of_the_shares_is_the_whole(concept):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(6, 5, generator=generator) for _ in range(2))
    scale, bias, parts = torch.tensor(3.0), torch.tensor(-2.0), (slice(0, 3), slice(3, 6))
    shares = [
        sigmoid_loss_rows(
            image[part],
            text,
            scale,
            bias,
            concept=None if concept is None else concept[part],
            all_concepts=concept,
            offset=part.start,
        )
        for part in parts
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), sigmoid_loss(image, text, scale, bias, concept=concept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float(leaves, dtype):
    image, text, scale, bias = (leaf.detach().float() for leaf in leaves)
    low = sigmoid_loss(image.to(dtype), text.to(dtype), scale, bias)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, sigmoid_loss(image.to(dtype).float(), text.to(dtype).float(), scale, bias))
