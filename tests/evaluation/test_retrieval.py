"""The metric against a slow NumPy transcription: ties, negative scores, several captions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkit.evaluation import Retrieval, RetrievalEvaluator
from clipkit.types import ArgumentError


def slow_figures(image, text, image_concept, text_concept):
    """Both directions, query by query, candidate by candidate."""
    figures = {}
    sides = {
        "image_to_text": (image, image_concept, text, text_concept),
        "text_to_image": (text, text_concept, image, image_concept),
    }
    for name, (queries, query_ids, candidates, candidate_ids) in sides.items():
        ranks = []
        for query, own in zip(queries, query_ids, strict=True):
            scores = [float(query @ candidate) for candidate in candidates]
            best = max(s for s, other in zip(scores, candidate_ids, strict=True) if other == own)
            ranks.append(1 + sum(s >= best for s, other in zip(scores, candidate_ids, strict=True) if other != own))
        figures |= {f"{name}_R@{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}
        figures |= {f"{name}_mean_rank": np.mean(ranks), f"{name}_median_rank": np.median(ranks)}
    return figures


def captioned(kind, images=40, width=5):
    """Embeddings, and the image of each caption, one to four captions an image."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), rng.integers(1, 5, images))
    image, text = rng.normal(size=(images, width)), rng.normal(size=(len(owner), width))
    text += 0.8 * image[owner]
    if kind == "ties":  # small whole numbers: dot products are exact and often equal
        image, text = image.round(), text.round()
    if kind == "negative":
        image[:, 0], text[:, 0] = 9, -9  # every dot product is far below zero
    return image.astype(np.float32), text.astype(np.float32), owner


def filled(image, text, owner, concept=None, batch=7, order=None, **options):
    """A metric fed in batches of images, each with all of its captions."""
    metric = Retrieval(**options)
    order = np.arange(len(image)) if order is None else order
    for part in np.split(order, range(batch, len(order), batch)):
        captions = np.concatenate([np.flatnonzero(owner == i) for i in part])
        places = [list(part).index(owner[caption]) for caption in captions]
        ids = None if concept is None else torch.tensor(concept[part])
        metric.update(*map(torch.tensor, (image[part], text[captions], part)), ids, torch.tensor(places))
    return metric


@pytest.mark.parametrize("kind", ["plain", "ties", "negative"])
@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_metric_is_the_transcription(kind, chunk):
    image, text, owner = captioned(kind)
    expected = slow_figures(image, text, np.arange(len(image)), owner)
    assert filled(image, text, owner, chunk=chunk).compute() == pytest.approx(expected, abs=1e-12)
    if kind == "negative":
        assert (image @ text.T).max() < 0
        assert 0 < expected["image_to_text_R@10"] < 1


def test_shared_concepts_are_right_for_each_other():
    image, text, owner = captioned("ties")
    concept = np.arange(len(image)) // 3 * 17
    expected = slow_figures(image, text, concept, concept[owner])
    figures = filled(image, text, owner, concept).compute()
    assert figures == pytest.approx(expected, abs=1e-12)
    assert figures["text_to_image_R@1"] > filled(image, text, owner).compute()["text_to_image_R@1"]


def test_several_captions_count_once_for_the_image_and_each_for_itself():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])  # the second caption of image 0 fits image 1
    metric = Retrieval(top=(1,))
    metric.update(image, text, owner=torch.tensor([0, 0, 1]))
    figures = metric.compute()
    assert figures["image_to_text_R@1"] == 0.5  # image 0 by its best caption; image 1 loses to that second caption
    assert figures["text_to_image_R@1"] == pytest.approx(2 / 3)


def test_order_and_repeats_change_nothing():
    image, text, owner = captioned("plain")
    order = np.concatenate([np.random.default_rng(1).permutation(len(image)), [0, 5, 5]])
    shuffled, straight = filled(image, text, owner, order=order, batch=6), filled(image, text, owner)
    assert shuffled.compute() == straight.compute()
    for one, other in zip(shuffled.rankings(), straight.rankings(), strict=True):
        assert torch.equal(one, other)


def test_pairs_need_no_further_arguments():
    image, text, _ = captioned("plain")
    metric = Retrieval()
    for start in range(0, 40, 16):
        metric.update(torch.tensor(image[start : start + 16]), torch.tensor(text[start : start + 16][: 40 - start]))
    expected = slow_figures(image, text[:40], np.arange(40), np.arange(40))
    assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_a_model_that_gives_everything_the_same_vector_finds_nothing():
    metric = Retrieval()
    metric.update(torch.ones(30, 4), torch.ones(30, 4))
    figures = metric.compute()
    assert figures["image_to_text_R@10"] == figures["text_to_image_R@10"] == 0
    assert figures["image_to_text_mean_rank"] == 30


def test_memory_grows_with_n_and_not_with_its_square(largest_made):
    count, width, chunk = 1500, 8, 16
    metric = Retrieval(chunk=chunk)
    with largest_made() as largest:
        metric.update(torch.randn(count, width), torch.randn(count, width))
        metric.compute()
        metric.rankings()
    assert largest.elements == chunk * count
    kept = sum(part.numel() for part in metric.image)
    assert kept == count * width


def test_rankings_are_the_best_images_of_even_spaced_captions():
    image, text, owner = captioned("plain")
    found = filled(image, text, owner).rankings(queries=4, k=3)
    assert found.query.tolist() == [0, 13, 26, 39]
    first = [np.flatnonzero(owner == i)[0] for i in found.query]
    expected = np.argsort(-(text[first] @ image.T), axis=1)[:, :3]
    np.testing.assert_array_equal(found.top, expected)
    np.testing.assert_array_equal(found.right, expected == found.query.numpy()[:, None])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [((3, 4), {}), ((2, 5), {}), ((2, 4), {"position": torch.arange(3)}), ((2, 4), {"owner": torch.zeros(3).long()})],
)
def test_shapes_that_do_not_fit_are_refused(text, arguments):
    with pytest.raises(ValueError, match="do not fit"):
        Retrieval().update(torch.randn(2, 4), torch.randn(*text), **arguments)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_is_an_error():
    with pytest.raises(ValueError, match="no image was added"):
        Retrieval().compute()


@pytest.mark.parametrize("batch_size", [2, 100])
def test_evaluator_takes_several_captions_or_one(model, rows, batch_size):
    model.eval()
    with torch.no_grad():
        image = model.encode_image(rows["image"][:]).numpy()
        several = [caption for captions in rows["captions"] for caption in captions]
        text, names = model.encode_text(several).numpy(), model.encode_text(rows["name"][:]).numpy()
    model.train()
    owner = np.array([i for i, captions in enumerate(rows["captions"]) for _ in captions])
    figures = RetrievalEvaluator(rows, batch_size=batch_size)(model)
    assert figures == pytest.approx(slow_figures(image, text, np.arange(11), owner), abs=1e-12)
    concept = np.array(rows["number"][:])
    figures = RetrievalEvaluator(rows, caption="name", concept="number", batch_size=batch_size)(model)
    # equal names have equal embeddings, which are right answers of each other here
    assert figures == pytest.approx(slow_figures(image, names, concept, concept), abs=1e-12)
    assert model.training


def test_evaluator_leaves_rankings(model, rows):
    evaluator = RetrievalEvaluator(rows, caption="name", batch_size=4)
    evaluator(model)
    assert evaluator.artifacts["rankings"].top.shape == (11, 5)


def test_evaluator_names_what_is_missing(rows):
    with pytest.raises(ArgumentError, match="did you mean 'captions'"):
        RetrievalEvaluator(rows, caption="caption")
    with pytest.raises(TypeError, match="no encode_image and no encode_text"):
        RetrievalEvaluator(rows)(torch.nn.Linear(1, 1))
