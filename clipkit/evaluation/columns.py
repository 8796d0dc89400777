"""A metric that keeps one value a row, gathered across ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from clipkit.distributed import rank, world_size

__all__ = ["Columns", "first_of_each"]


class Columns(Metric):
    """A ``torchmetrics.Metric`` whose states are columns of a table, one-dimensional and typed.

    torchmetrics gathers an empty list as a one-dimensional float tensor, so a rank that saw no row would not fit the
    others: here every column starts with a piece of length 0 of its own type, and matrices are kept flat.
    """

    is_differentiable = False
    full_state_update = True  # rows without positions are numbered by what is there already

    def __init__(self) -> None:
        super().__init__()
        self._types: dict[str, torch.dtype] = {}

    def add_column(self, name: str, dtype: torch.dtype = torch.int64) -> None:
        """Declare a column; append one-dimensional tensors of that type to ``self.<name>`` in ``update``."""
        self._types[name] = dtype
        self.add_state(name, [], dist_reduce_fx="cat")
        self._start(name)

    def append(self, name: str, values: Tensor) -> None:
        """Append values of any shape, flattened and brought to the column's type."""
        getattr(self, name).append(values.detach().to(self._types[name]).flatten())

    def column(self, name: str) -> Tensor:
        """All values so far; inside ``compute`` or ``sync_context`` those of every rank, in rank order."""
        values: Tensor = dim_zero_cat(getattr(self, name))
        return values

    def count_on(self, name: str, count: int) -> Tensor:
        """(count,) keys that no row of any rank has yet, given that column ``name`` has one entry a row."""
        seen = sum(len(part) for part in getattr(self, name))
        return torch.arange(seen, seen + count, device=self.device) * world_size() + rank()

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        for name in self._types:
            self._start(name)

    def _start(self, name: str) -> None:
        getattr(self, name).append(torch.empty(0, dtype=self._types[name], device=self.device))


def first_of_each(key: Tensor) -> Tensor:
    """Where each key stands first, in ascending order of key.

    Sorts gathered rows into the order one process would have seen, and drops those that a sampler repeated to make the
    ranks' shares even.

    Args:
        key: (N,) int64.

    Returns:
        (M,) int64 indices, M the number of distinct keys.
    """
    order = key.argsort(stable=True)
    ordered = key[order]
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return order[fresh]
