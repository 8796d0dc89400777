"""Ranks, the two differentiable collectives that contrastive objectives need, objects; safe with no process group."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_logsumexp", "gather", "gather_objects", "rank", "world_size"]

T = TypeVar("T")


def rank() -> int:
    """Rank of this process, 0 with no process group."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """Number of processes, 1 with no process group."""
    return dist.get_world_size() if _active() else 1


def gather(x: Tensor) -> Tensor:
    """Rows of every rank, in rank order; the gradient of each row is summed over ranks and sent home.

    Args:
        x: (B, ...), the same shape on every rank.

    Returns:
        (world_size * B, ...), differentiable: the backward pass is a reduce-scatter.
    """
    return cast("Tensor", _Gather.apply(x)) if world_size() > 1 else x


def all_logsumexp(x: Tensor) -> Tensor:
    """Log-sum-exp over ranks of one vector a rank.

    Args:
        x: (N,), this rank's part of N log-sum-exps.

    Returns:
        (N,), the same on every rank and differentiable with respect to each rank's part.
    """
    return cast("Tensor", _AllLogSumExp.apply(x)) if world_size() > 1 else x


def gather_objects(value: T) -> list[T]:
    """A value of every rank, in rank order and the same on all; every rank must call it.

    Args:
        value: Anything that pickles, such as counts. For tensors that need no copy through pickle, use ``gather``.
    """
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        out = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        out = grad.new_empty((ctx.rows, *grad.shape[1:]))
        dist.reduce_scatter_tensor(out, grad)
        return out


class _AllLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        top = x.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX)
        total = (x - top).exp()
        dist.all_reduce(total)
        out = total.log() + top
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, out = ctx.saved_tensors
        grad = grads[0].clone()
        dist.all_reduce(grad)  # each rank's loss reads only some columns: their gradients add up
        share: Tensor = grad * (x - out).exp()
        return share
