"""Every pooling against a loop over rows."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from clipkit.layers import Pool, pool_tokens

END = 7
IDS = torch.tensor([[1, 5, 6, END, 0], [1, END, 0, 0, 0], [1, END, 4, 3, END], [END, 5, 6, 2, END]])
MASK = IDS != 0
LENGTHS = [4, 2, 5, 5]


def slow(tokens, pool):
    rows = []
    for row, length in zip(tokens, LENGTHS, strict=True):
        real = row[:length]
        rows.append({"first": real[0], "mean": real.mean(0), "max": real.max(0).values}.get(pool, real[-1]))
    return torch.stack(rows)  # every caption here ends with its end token, so `eos` is the last


@pytest.mark.parametrize("pool", get_args(Pool))
def test_against_a_loop(pool):
    tokens = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_tokens(tokens, MASK, pool, IDS, END), slow(tokens, pool))


@pytest.mark.parametrize("pool", get_args(Pool))
def test_padding_does_not_count(pool):
    tokens = torch.randn(4, 5, 3)
    other = tokens.masked_fill(~MASK.unsqueeze(-1), 1e4)
    torch.testing.assert_close(pool_tokens(tokens, MASK, pool, IDS, END), pool_tokens(other, MASK, pool, IDS, END))


@pytest.mark.parametrize("pool", get_args(Pool))
def test_gradients_reach_only_what_is_pooled(pool):
    tokens = torch.randn(4, 5, 3, requires_grad=True)
    pool_tokens(tokens, MASK, pool, IDS, END).sum().backward()
    reached = (tokens.grad != 0).any(-1)
    assert not reached[~MASK].any()
    assert reached.any(1).all()


def test_padding_with_the_end_token_is_not_the_end():
    ids = torch.tensor([[1, 5, END, END, END]])
    mask = torch.tensor([[True, True, True, False, False]])
    tokens = torch.arange(5.0).view(1, 5, 1)
    assert pool_tokens(tokens, mask, "eos", ids, END).item() == 2


def test_eos_needs_an_end_token():
    with pytest.raises(ValueError, match="use `last`"):
        pool_tokens(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), "eos")


def test_an_unknown_pooling_names_those_there_are():
    with pytest.raises(ValueError, match="'middle' is not one of first, mean, max, last, eos"):
        pool_tokens(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), "middle")


def test_mean_in_half_precision_keeps_the_type():
    tokens = torch.ones(4, 5, 3, dtype=torch.bfloat16)
    assert pool_tokens(tokens, MASK, "mean").dtype == torch.bfloat16
