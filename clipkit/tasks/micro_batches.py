"""The outputs of a large batch from small ones: every pair stays a negative, the activations of few are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from clipkit.types import ArgumentError, ImageTextBatch

__all__ = ["check_micro_batches", "in_micro_batches"]


def in_micro_batches(model: Callable[[ImageTextBatch], Any], batch: ImageTextBatch, rows: int) -> Any:
    """Run a model over a batch, some rows at a time, keeping what the backward pass needs of none.

    Each part is an activation checkpoint (Chen et al. 2016, arXiv 1604.06174): the backward pass runs it again, with
    the random numbers it drew, so that the gradient is that of the whole batch. The idea of splitting the batch for a
    contrastive loss is that of GradCache (Gao et al. 2021, arXiv 2101.06983), without its second loop.

    Args:
        model: Batch to a named tuple of outputs.
        batch: B samples.
        rows: Samples at a time, at least 2.

    Returns:
        The outputs of the batch: what has a row a sample is joined, all else (temperatures) is the first part's.
    """
    parts = [batch.part(slice(start, start + rows)) for start in range(0, len(batch.image), rows)]
    if len(parts) == 1:
        return model(batch)
    if torch.is_grad_enabled():
        outputs = [checkpoint(model, part, use_reentrant=False) for part in parts]
    else:
        outputs = [model(part) for part in parts]
    return type(outputs[0])(*(_joined(values, rows) for values in zip(*outputs, strict=True)))


def check_micro_batches(model: nn.Module, rows: int) -> None:
    """Refuse what cannot be split.

    Args:
        model: A model, what is frozen in it already so.
        rows: Samples at a time.

    Raises:
        ArgumentError: For fewer than 2 rows, or batch-norm that trains: its statistics would be those of the small
            batches, and be updated twice, as the backward pass runs each part again.
    """
    if rows < 2:
        raise ArgumentError("micro_batch_size", f"{rows} is not at least 2; null runs the batch as a whole")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not _frozen(module):
            raise ArgumentError(
                "micro_batch_size",
                f"{name} is batch-norm in training: it would see {rows} rows at a time and update its statistics twice "
                "a step; freeze it (`trainable`), or take a backbone with layer-norm or group-norm",
            )


def _frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _joined(values: Sequence[Any], rows: int) -> Any:
    first = values[0]
    by_row = isinstance(first, Tensor) and first.ndim > 0 and first.shape[0] == rows
    return torch.cat(list(values)) if by_row else first
