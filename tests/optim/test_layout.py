"""Moments that are loaded lie in memory as their weights do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clipkit.optim import keep_layout


def made(layout):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 2).to(memory_format=layout)
    return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)


def step(layer, optimizer, seed):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("after", [torch.channels_last, torch.contiguous_format], ids=["to channels-last", "from it"])
def test_a_run_goes_on_in_another_layout(after):
    (before,) = {torch.channels_last, torch.contiguous_format} - {after}
    layer, optimizer = made(before)
    step(layer, optimizer, 0)
    weights, state = {k: v.clone() for k, v in layer.state_dict().items()}, optimizer.state_dict()
    other, its = made(after)
    keep_layout(its)
    other.load_state_dict(weights)
    its.load_state_dict(copy.deepcopy(state))
    assert its.state[other.weight]["exp_avg"].stride() == other.weight.stride()
    for one in ((layer, optimizer), (other, its)):
        step(*one, 1)
    torch.testing.assert_close(other.weight, layer.weight)
