"""Moments in memory as their weights are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["keep_layout"]


def keep_layout(optimizer: Optimizer) -> None:
    """Have an optimiser lay out what it loads as its parameters are.

    A fused step goes through parameter and moments side by side in memory. Moments of a channels-last convolution that
    come from a contiguous one, as those of a sharded model are, would meet other weights, with no word of it.

    Args:
        optimizer: Before it loads a state.
    """
    optimizer.register_load_state_dict_post_hook(_lay_out)


def _lay_out(optimizer: Optimizer) -> None:
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            apart = (
                isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride()
            )
            if apart:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
