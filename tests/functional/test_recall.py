"""Ranks against a transcription that looks at every pair of candidates, and recall against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from clipkit.functional import (
    match_ranks,
    median_rank,
    recall_at_k,
    retrieval_ranks,
    target_ranks,
    top_candidates,
)


def slow_rank(scores: np.ndarray, right: np.ndarray) -> int:
    """One query: try each right candidate, let every wrong one that is not strictly below stand before it."""
    places = []
    for mine in np.flatnonzero(right):
        ahead = [c for c in np.flatnonzero(~right) if not scores[c] < scores[mine]]
        places.append(1 + len(ahead))
    return min(places)


@pytest.mark.parametrize("kind", ["any sign", "all negative", "many ties", "all equal"])
@pytest.mark.parametrize("seed", range(3))
def test_match_ranks_is_the_transcription(kind, seed):
    rng = np.random.default_rng(seed)
    scores = {
        "any sign": rng.normal(size=(40, 13)),
        "all negative": -rng.random((40, 13)) - 0.1,
        "many ties": rng.integers(-2, 3, (40, 13)).astype(float),
        "all equal": np.full((40, 13), -0.25),
    }[kind]
    right = rng.random((40, 13)) < 0.2
    right[np.arange(40), rng.integers(0, 13, 40)] = True
    expected = [slow_rank(*row) for row in zip(scores, right, strict=True)]
    assert match_ranks(torch.tensor(scores), torch.tensor(right)).tolist() == expected


def test_a_tie_is_never_won():
    scores = torch.tensor([[0.5, 0.5, 0.1], [-1.0, -1.0, -1.0]])
    assert target_ranks(scores, torch.tensor([0, 0])).tolist() == [2, 3]
    assert target_ranks(scores, torch.tensor([1, 2])).tolist() == [2, 3]


def test_right_candidates_do_not_stand_in_each_others_way():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.8]])
    assert match_ranks(scores, torch.tensor([[False, True, True, True]])).tolist() == [2]
    assert match_ranks(scores, torch.tensor([[True, True, True, True]])).tolist() == [1]


@pytest.mark.parametrize("broken", [0, 1, [0, 1, 2, 3]])
def test_nan_comes_last_and_never_first(broken):
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.3]])
    scores[0, broken] = math.nan
    expected = {0: 4, 1: 2}[broken] if isinstance(broken, int) else 4  # the right one, a wrong one, all
    assert target_ranks(scores, torch.tensor([0])).tolist() == [expected]
    assert match_ranks(scores, torch.tensor([[True, False, False, False]])).tolist() == [expected]


def test_target_ranks_is_match_ranks_with_one_right_candidate():
    torch.manual_seed(0)
    scores, target = torch.randint(-3, 4, (50, 9)).float(), torch.randint(0, 9, (50,))
    right = torch.nn.functional.one_hot(target, 9).bool()
    assert torch.equal(target_ranks(scores, target), match_ranks(scores, right))


def test_a_query_without_a_right_candidate_is_refused():
    with pytest.raises(ValueError, match="1 queries have no right candidate, the first of them query 1"):
        match_ranks(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


@pytest.mark.parametrize("k", [1, 5])
def test_recall_is_scikit_learns(k):
    torch.manual_seed(1)
    scores, target = -torch.rand(200, 12) - 1, torch.randint(0, 12, (200,))  # all below zero, no ties
    expected = top_k_accuracy_score(target, scores, k=k, labels=range(12))
    assert recall_at_k(target_ranks(scores, target), k).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ranks", [[7], [1, 4], [5, 1, 2], [1, 1, 2, 9]])
def test_median_is_numpys(ranks):
    assert median_rank(torch.tensor(ranks)).item() == np.median(ranks)


def several_captions(images=30, most=4, width=8):
    """Embeddings of small whole numbers, so that dot products are exact, tie often, and are often negative."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), rng.integers(1, most + 1, images))
    image, text = (torch.tensor(rng.integers(-2, 3, (n, width))).float() for n in (images, len(owner)))
    return image, text, torch.arange(images), torch.tensor(owner)


@pytest.mark.parametrize("chunk", [1, 7, 30, 1000])
def test_retrieval_ranks_both_ways_whatever_the_chunk(chunk):
    image, text, image_id, owner = several_captions()
    scores = (image @ text.T).numpy()
    right = image_id.numpy()[:, None] == owner.numpy()[None, :]
    to_text = [slow_rank(*row) for row in zip(scores, right, strict=True)]
    to_image = [slow_rank(*row) for row in zip(scores.T, right.T, strict=True)]
    assert retrieval_ranks(image, text, image_id, owner, chunk=chunk).tolist() == to_text
    assert retrieval_ranks(text, image, owner, image_id, chunk=chunk).tolist() == to_image


def test_top_candidates_whatever_the_chunk():
    torch.manual_seed(0)
    query, candidate = torch.randn(20, 6), torch.randn(15, 6)
    expected = (query @ candidate.T).argsort(dim=1, descending=True)[:, :4]
    for chunk in (1, 6, 50):
        assert torch.equal(top_candidates(query, candidate, 4, chunk=chunk)[1], expected)
    assert top_candidates(query, candidate, 99)[1].shape == (20, 15)


def test_no_tensor_grows_with_the_square(largest_made):
    count, width, chunk = 1200, 4, 16
    ids = torch.arange(count)
    with largest_made() as largest:
        retrieval_ranks(torch.randn(count, width), torch.randn(count, width), ids, ids, chunk=chunk)
    assert largest.elements == chunk * count


def test_autocast_does_not_round_scores():
    query = torch.tensor([[1.0, 0.0]])
    candidate = torch.tensor([[0.50001, 0.0], [0.5, 0.0]])  # the same number in bf16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_ranks(query, candidate, torch.tensor([0]), torch.tensor([0, 1])).tolist() == [1]
