"""Patches by a product of matrices against the convolution."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from clipkit.towers.patches import PatchConv2d, multiply_patches


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "size", "bias"), [((4, 4), (16, 16), True), ((4, 2), (19, 9), False), ((16, 16), (16, 48), True)]
)
def test_value_and_gradients_are_the_convolutions(kernel, size, bias, layout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, kernel, kernel, bias=bias)).double().to(memory_format=layout)
    other = copy.deepcopy(model)
    multiply_patches(other)
    assert isinstance(other[0], PatchConv2d)
    assert list(other.state_dict()) == list(model.state_dict())
    results = []
    for one in (model, other):
        x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=layout).requires_grad_()
        out = one(x)
        out.sin().sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in one.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_only_what_cuts_pixels_is_replaced():
    kinds = {
        "vit_tiny_patch16_224": ["patch_embed.proj"],
        "convnext_atto": ["stem.0"],
        "resnet10t": [],
    }
    for name, expected in kinds.items():
        backbone = timm.create_model(name)
        multiply_patches(backbone)
        assert [place for place, module in backbone.named_modules() if isinstance(module, PatchConv2d)] == expected
    odd = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4, padding=1), nn.Conv2d(3, 4, 4, 2), nn.Conv2d(4, 4, 4, 4), nn.Conv2d(3, 4, 1)
    )
    multiply_patches(odd)
    assert not any(isinstance(module, PatchConv2d) for module in odd)
