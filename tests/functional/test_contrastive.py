"""InfoNCE and the sigmoid loss against open_clip's and against a slow transcription, in value and every gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.functional import info_nce, sigmoid_loss

B, D = 7, 5


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image and text before normalisation, the log of the scale, and the bias."""
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(B, D, generator=generator, dtype=dtype) for _ in range(2))
    scale, bias = torch.tensor([2.3], dtype=dtype), torch.tensor([-4.0], dtype=dtype)
    for leaf in (image, text, scale, bias):
        leaf.requires_grad_()
    return image, text, scale, bias


def value_and_gradients(loss: Callable[..., Tensor]) -> list[Tensor]:
    image, text, scale, bias = leaves()
    value = loss(normalize(image, dim=-1), normalize(text, dim=-1), scale.exp(), bias)
    grads = torch.autograd.grad(value, (image, text, scale, bias), allow_unused=True)
    return [value.detach(), *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda i, t, s, b: info_nce(i, t, s), lambda i, t, s, b: ClipLoss()(i, t, s)),
        (sigmoid_loss, lambda i, t, s, b: SigLipLoss()(i, t, s, b)),
    ],
    ids=["info_nce", "sigmoid"],
)
def test_equals_open_clip(ours: Callable[..., Tensor], theirs: Callable[..., Tensor]) -> None:
    mine, reference = value_and_gradients(ours), value_and_gradients(theirs)
    assert len(mine) == len(reference) >= 4
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def slow_info_nce(image: np.ndarray, text: np.ndarray, scale: float, concept: list[int]) -> float:
    """Cross-entropy against the uniform distribution over positives, one row and one column at a time."""
    total = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(len(a)):
            scores = [scale * float(a[i] @ b[j]) for j in range(len(b))]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            right = [j for j in range(len(b)) if concept[j] == concept[i]]
            total -= sum(scores[j] - log_sum for j in right) / len(right)
    return total / (2 * len(image))


def slow_sigmoid(image: np.ndarray, text: np.ndarray, scale: float, bias: float, concept: list[int]) -> float:
    """Every pair a yes or no."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            sign = 1 if concept[i] == concept[j] else -1
            total += math.log1p(math.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(image)


CONCEPTS = [3, 1, 3, 2, 1, 3, 9]


def test_several_positives_against_slow_references() -> None:
    image, text, scale, bias = (leaf.detach() for leaf in leaves())
    image, text = normalize(image, dim=-1), normalize(text, dim=-1)
    ids = torch.tensor(CONCEPTS)
    nce = info_nce(image, text, scale.exp(), concept=ids)
    pairwise = sigmoid_loss(image, text, scale.exp(), bias, concept=ids)
    plain = image.numpy(), text.numpy(), float(scale.exp())
    assert float(nce) == pytest.approx(slow_info_nce(*plain, CONCEPTS), abs=1e-10)
    assert float(pairwise) == pytest.approx(slow_sigmoid(*plain, float(bias), CONCEPTS), abs=1e-10)


def test_distinct_concepts_change_nothing() -> None:
    image, text, scale, bias = (leaf.detach() for leaf in leaves())
    ids = torch.tensor([5, 4, 6, 1, 0, 2, 8])
    torch.testing.assert_close(info_nce(image, text, scale, concept=ids), info_nce(image, text, scale))
    pairwise = sigmoid_loss(image, text, scale, bias, concept=ids)
    torch.testing.assert_close(pairwise, sigmoid_loss(image, text, scale, bias))


def test_gradcheck_with_several_positives() -> None:
    ids = torch.tensor(CONCEPTS)
    inputs = leaves()
    assert torch.autograd.gradcheck(lambda i, t, s, b: info_nce(i, t, s.exp(), concept=ids), inputs)
    assert torch.autograd.gradcheck(lambda i, t, s, b: sigmoid_loss(i, t, s.exp(), b, concept=ids), inputs)


def test_guessing_costs_ln_b() -> None:
    x = torch.ones(8, 4) / 2
    assert float(info_nce(x, x, torch.tensor(20.0))) == pytest.approx(math.log(8), abs=1e-5)


def test_half_precision_is_computed_in_float() -> None:
    image, text, scale, bias = (leaf.detach().float() for leaf in leaves())
    low = info_nce(image.bfloat16(), text.bfloat16(), scale)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, info_nce(image.bfloat16().float(), text.bfloat16().float(), scale))
    assert sigmoid_loss(image.bfloat16(), text.bfloat16(), scale, bias).dtype == torch.float32
