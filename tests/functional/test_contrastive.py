"""InfoNCE against open_clip's loss and a slow transcription, in value and every gradient."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from clipkit.functional import info_nce
from clipkit.functional.contrastive import info_nce_rows, positives, similarities

CONCEPTS = [3, 1, 3, 2, 1, 3, 9]


def slow_info_nce(image, text, scale, concept):
    """Cross-entropy against the uniform distribution over positives, one row and one column at a time."""
    total = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(len(a)):
            scores = [scale * float(a[i] @ b[j]) for j in range(len(b))]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            right = [j for j in range(len(b)) if concept[j] == concept[i]]
            total -= sum(scores[j] - log_sum for j in right) / len(right)
    return total / (2 * len(image))


def test_equals_open_clip(leaves, value_and_gradients):
    mine, theirs = value_and_gradients(info_nce, leaves), value_and_gradients(ClipLoss(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("concept", [CONCEPTS, list(range(7)), [0] * 7])
def test_several_positives_against_the_slow_reference(leaves, concept):
    image, text, scale = (leaf.detach() for leaf in leaves)
    image, text = normalize(image, dim=-1), normalize(text, dim=-1)
    loss = info_nce(image, text, scale.exp(), concept=torch.tensor(concept))
    assert float(loss) == pytest.approx(
        slow_info_nce(image.numpy(), text.numpy(), float(scale.exp()), concept), abs=1e-10
    )


def test_several_positives_in_every_gradient(leaves, value_and_gradients):
    ids = torch.tensor(CONCEPTS)
    target = positives(ids, ids).double()
    target = target / target.sum(1, keepdim=True)

    def dense(image, text, scale):
        logits = scale * image @ text.T
        return -(target * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum() / (2 * len(image))

    mine = value_and_gradients(lambda *args: info_nce(*args, concept=ids), leaves)
    for a, b in zip(mine, value_and_gradients(dense, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_distinct_concepts_change_nothing(leaves, value_and_gradients):
    ids = torch.tensor([5, 4, 6, 1, 0, 2, 8])
    mine = value_and_gradients(lambda *args: info_nce(*args, concept=ids), leaves)
    for a, b in zip(mine, value_and_gradients(info_nce, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradcheck(leaves):
    ids = torch.tensor(CONCEPTS)
    assert torch.autograd.gradcheck(lambda i, t, s: info_nce(i, t, s.exp(), concept=ids), leaves)


@pytest.mark.parametrize("concept", [None, torch.tensor([1, 2, 1, 3, 2, 1])])
def test_the_mean_of_the_shares_is_the_whole(concept):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(6, 5, generator=generator) for _ in range(2))
    scale, parts = torch.tensor(3.0), (slice(0, 3), slice(3, 6))
    columns = (scale * image @ text.T).fill_diagonal_(-torch.inf).logsumexp(0)  # what joining both would give
    shares = [
        info_nce_rows(
            image[part],
            text,
            scale,
            concept=None if concept is None else concept[part],
            all_concepts=concept,
            offset=part.start,
            join=lambda part: columns,
        )
        for part in parts
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), info_nce(image, text, scale, concept=concept))


def test_guessing_costs_ln_b():
    x = torch.ones(8, 4) / 2
    assert float(info_nce(x, x, torch.tensor(20.0))) == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float(leaves, dtype):
    image, text, scale = (leaf.detach().float() for leaf in leaves)
    low = info_nce(image.to(dtype), text.to(dtype), scale)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, info_nce(image.to(dtype).float(), text.to(dtype).float(), scale))


def test_autocast_does_not_reach_the_similarities(leaves):
    image, text, _ = (leaf.detach().float() for leaf in leaves)
    with torch.autocast("cpu", torch.bfloat16):
        inside = similarities(image, text)
    assert torch.equal(inside, similarities(image, text))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_scale_may_be_a_scalar_or_of_shape_1(leaves, shape):
    image, text, _ = leaves
    assert info_nce(image, text, torch.full(shape, 2.0, dtype=torch.float64)).shape == ()
