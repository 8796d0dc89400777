"""Statistics of a batch against slow ones, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clipkit.functional import effective_rank, in_batch_accuracy, repeated_share, spread

CONCEPTS = [3, 1, 3, 2, 1, 3, 9, 4]


@pytest.fixture
def sides():
    generator = torch.Generator().manual_seed(0)
    return tuple(normalize(torch.randn(8, 5, generator=generator), dim=-1) for _ in range(2))


def test_spread_is_the_mean_over_all_pairs(sides):
    for x in sides:
        pairs = [1 - float(a.double() @ b.double()) for a in x for b in x]
        assert float(spread(x)) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert float(spread(sides[0][:1].expand(6, 5))) == pytest.approx(0, abs=1e-6)


def test_effective_rank_by_definition(sides):
    for x in sides:
        centred = x.double().numpy() - x.double().numpy().mean(0)
        values = np.sqrt(np.linalg.eigvalsh(centred.T @ centred).clip(0))
        share = values / values.sum()
        assert float(effective_rank(x)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_counts_equal_directions(rank):
    x = torch.zeros(2 * rank, 7)
    for direction in range(rank):
        x[2 * direction, direction], x[2 * direction + 1, direction] = 3, -3
    assert float(effective_rank(x)) == pytest.approx(rank, rel=1e-4)
    assert float(effective_rank(x + 5)) == pytest.approx(rank, rel=1e-4)  # their common part says nothing


def test_effective_rank_of_one_point_is_finite():
    assert float(effective_rank(torch.ones(4, 3))) == pytest.approx(1)


def test_effective_rank_of_what_is_not_finite_is_nan():
    x = torch.ones(4, 3)
    x[1, 1] = torch.nan
    assert effective_rank(x).isnan()


def test_in_batch_accuracy_row_by_row(sides):
    image, text = sides
    hits = [CONCEPTS[max(range(8), key=lambda j, a=a: float(a @ text[j]))] == CONCEPTS[i] for i, a in enumerate(image)]
    found = float(in_batch_accuracy(image, text, torch.tensor(CONCEPTS)))
    assert found == pytest.approx(np.mean(hits)) and 0 < found < 1
    assert float(in_batch_accuracy(text, text, torch.arange(8))) == 1


def test_repeated_share_row_by_row():
    tokens = torch.tensor([[1, 2], [1, 2], [3, 4], [3, 4], [3, 4], [5, 6]])
    concept = torch.tensor([1, 2, 7, 7, 8, 9])
    rows = range(len(tokens))
    wrong = [any(torch.equal(tokens[i], tokens[j]) and concept[i] != concept[j] for j in rows) for i in rows]
    assert wrong == [True] * 5 + [False]
    assert float(repeated_share(tokens, concept)) == pytest.approx(np.mean(wrong))
    assert float(repeated_share(tokens, tokens[:, 0])) == 0  # they count as right answers
