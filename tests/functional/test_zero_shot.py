"""Zero-shot accuracies against scikit-learn, class embeddings against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from clipkit.functional import class_embeddings, mean_per_class, mean_per_class_accuracy, top_k_accuracy


@pytest.fixture
def scored():
    """Scores of any sign without ties, and targets in which class 3 of 11 never occurs."""
    torch.manual_seed(0)
    target = torch.randint(0, 11, (300,))
    target[target == 3] = 4
    scores = torch.randn(300, 11) - 1
    scores[torch.arange(300), target] += torch.rand(300) * 2
    return scores, target


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_is_scikit_learns(scored, k):
    scores, target = scored
    expected = top_k_accuracy_score(target, scores, k=k, labels=range(11))
    assert top_k_accuracy(scores, target, k).item() == pytest.approx(expected, abs=1e-12)


def test_mean_per_class_is_scikit_learns_macro_recall(scored):
    scores, target = scored
    predicted = scores.argmax(1)
    expected = recall_score(target, predicted, average="macro", labels=target.unique())
    assert mean_per_class_accuracy(scores, target).item() == pytest.approx(expected, abs=1e-12)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert balanced_accuracy_score(target, predicted) == pytest.approx(expected, abs=1e-12)


def test_mean_per_class_weighs_classes_and_not_rows():
    hit = torch.tensor([True, True, True, True, False])
    assert mean_per_class(hit, torch.tensor([0, 0, 0, 0, 7])).item() == 0.5


def test_equal_scores_are_a_miss():
    scores, target = torch.full((6, 4), 0.3), torch.tensor([0, 1, 2, 3, 0, 1])
    assert top_k_accuracy(scores, target, 1) == 0
    assert top_k_accuracy(scores, target, 3) == 0
    assert top_k_accuracy(scores, target, 4) == 1
    assert mean_per_class_accuracy(scores, target) == 0


def test_class_embeddings_are_the_renormalised_mean_of_normalised_prompts():
    rng = np.random.default_rng(0)
    sizes = [3, 1, 5]
    prompts = rng.normal(size=(9, 4)) * rng.uniform(0.1, 10, (9, 1))  # long prompts must not count more
    expected, start = [], 0
    for size in sizes:
        units = [row / np.sqrt((row**2).sum()) for row in prompts[start : start + size]]
        mean = sum(units) / size
        expected.append(mean / np.sqrt((mean**2).sum()))
        start += size
    np.testing.assert_allclose(class_embeddings(torch.tensor(prompts), sizes), np.array(expected), rtol=1e-12)


@pytest.mark.parametrize("sizes", [[2, 1], [4, 0], [5], []])
def test_class_embeddings_refuse_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="add up to the 4 prompts"):
        class_embeddings(torch.randn(4, 2), sizes)
