"""Which of PyTorch's kernels attends."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["attention_kernel"]

SHORT = 128
"""Tokens; in bf16 a CPU's fused kernel is slower than plain products for 50 to 77 of them, and faster for 197."""


def attention_kernel(of: Tensor, length: int | None) -> AbstractContextManager[None]:
    """The context to attend in: PyTorch's choice, but plain products for short sequences in bf16 on a CPU.

    Args:
        of: What it is computed in, where autocast does not say: weights, or (B, N, D) tokens.
        length: Tokens of a sequence; None where that is not known.
    """
    if of.device.type != "cpu" or length is None or length > SHORT or torch.compiler.is_compiling():
        return nullcontext()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else of.dtype
    return sdpa_kernel(SDPBackend.MATH) if dtype == torch.bfloat16 else nullcontext()
