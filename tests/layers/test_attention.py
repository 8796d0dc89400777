"""The choice of an attention kernel."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from clipkit.layers import attention_kernel

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("device", "length", "half", "plain"),
    [
        (CPU, 50, True, True),
        (CPU, 50, False, False),
        (CPU, 197, True, False),
        (CPU, None, True, False),
        (OTHER, 50, True, False),
    ],
)
def test_plain_products_for_the_short_in_bf16_on_a_cpu(device, length, half, plain):
    before = set(_cur_sdpa_kernel_backends())
    weights = torch.zeros(1, device=device)
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext(), attention_kernel(weights, length):
        during = set(_cur_sdpa_kernel_backends())
    assert during == ({SDPBackend.MATH} if plain else before)
    with attention_kernel(weights.bfloat16() if half else weights, length):  # as FSDP2 has it, and not autocast
        assert set(_cur_sdpa_kernel_backends()) == during
    assert set(_cur_sdpa_kernel_backends()) == before
