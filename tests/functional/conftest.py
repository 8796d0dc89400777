"""What a loss is compared on: the leaves of a small batch, and a loss's value with the gradient of each leaf."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize


@pytest.fixture
def leaves() -> tuple[Tensor, ...]:
    """Image and text (7, 5) before normalisation, and the log of the scale, in float64."""
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(leaf.requires_grad_() for leaf in (image, text, torch.tensor([2.3], dtype=torch.float64)))


@pytest.fixture
def value_and_gradients() -> Callable[..., list[Tensor]]:
    """``value_and_gradients(loss, leaves)``: what a loss is, and its gradient by every leaf; a bias comes last."""

    def measure(loss: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> list[Tensor]:
        image, text, scale, *bias = leaves
        value = loss(normalize(image, dim=-1), normalize(text, dim=-1), scale.exp(), *bias)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    return measure
