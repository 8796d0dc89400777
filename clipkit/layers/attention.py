"""Which of PyTorch's kernels attends."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["attention_kernel"]

SHORT = 128
"""Tokens. In bf16 the fused kernel of a CPU takes 3 times as long for 50, and two thirds of the time for 197."""


def attention_kernel(device: torch.device, length: int) -> AbstractContextManager[None]:
    """The context to attend in: PyTorch's choice, but plain products for short sequences in bf16 on a CPU.

    Args:
        device: Where it runs.
        length: Tokens of a sequence.
    """
    if device.type != "cpu" or length > SHORT or torch.compiler.is_compiling():
        return nullcontext()
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return sdpa_kernel(SDPBackend.MATH) if half else nullcontext()
