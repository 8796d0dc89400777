"""One vector from many: masked pooling that every text tower shares."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Pool", "pool_tokens"]

Pool = Literal["first", "mean", "max", "last", "eos"]


def pool_tokens(
    tokens: Tensor, mask: Tensor, pool: Pool, ids: Tensor | None = None, end_id: int | None = None
) -> Tensor:
    """Pool the tokens that are not padding.

    Args:
        tokens: (B, N, D).
        mask: (B, N) bool, true where a token counts; at least one a row.
        pool: ``first`` token, ``mean`` or ``max`` over tokens, ``last`` token, or ``eos``: the end token that closes
            the row, so the last one where a caption itself holds others.
        ids: (B, N) token ids, for ``eos``.
        end_id: The tokenizer's own end token, for ``eos``; not always the largest id, and padding may have the same.

    Returns:
        (B, D).

    Raises:
        ValueError: For an unknown ``pool``, or ``eos`` with no end token.
    """
    if pool == "first":
        return tokens[:, 0]
    if pool == "mean":
        weight = mask.unsqueeze(-1).to(tokens.dtype)  # (B, N, 1)
        return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
    if pool == "max":
        return tokens.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)
    if pool == "last":
        return _last(tokens, mask)
    if pool == "eos":
        if ids is None or end_id is None:
            raise ValueError("pool=eos needs a tokenizer that ends each caption with a token of its own; use `last`")
        return _last(tokens, mask & (ids == end_id))
    raise ValueError(f"pool {pool!r} is not one of {', '.join(get_args(Pool))}")


def _last(tokens: Tensor, where: Tensor) -> Tensor:
    """(B, D): of each row of ``tokens`` (B, N, D) the last one at which ``where`` (B, N) is true."""
    index = where.long().cumsum(1).argmax(1)  # (B,): argmax gives the first place at which the count is full
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), index]
