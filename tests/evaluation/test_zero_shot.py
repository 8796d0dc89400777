"""The metric against scikit-learn, the evaluator against a transcription."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from sklearn.metrics import recall_score, top_k_accuracy_score

from clipkit.evaluation import Confusion, ZeroShot, ZeroShotEvaluator
from clipkit.types import ArgumentError


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def by_hand(model, rows, names, templates=("{}",)):
    """(N, K) scores in NumPy."""
    table, colours = model.text.detach().double().numpy(), model.vision.detach().double().numpy()
    prompts = [[unit(table[list(t.format(name).encode())].mean(0)) for t in templates] for name in names]
    classes = unit(np.stack([np.mean(units, axis=0) for units in prompts]))
    pixels = np.stack([np.asarray(image, dtype=float)[0, 0] for image in rows["image"]])
    return unit((pixels / 127.5 - 1) @ colours) @ classes.T


def figures_of(scores, target):
    predicted = scores.argmax(1)
    return {
        "acc1": top_k_accuracy_score(target, scores, k=1, labels=range(scores.shape[1])),
        "acc5": (np.argsort(-scores, axis=1)[:, :5] == np.array(target)[:, None]).any(1).mean(),
        "mean_per_class": recall_score(target, predicted, average="macro", labels=sorted(set(target))),
    }


def test_metric_over_batches_is_scikit_learns():
    torch.manual_seed(0)
    scores, target = torch.randn(103, 9) - 2, torch.randint(0, 8, (103,))
    metric = ZeroShot()
    for part, right in zip(scores.split(20), target.split(20), strict=True):
        metric.update(part, right)
    assert metric.compute() == pytest.approx(figures_of(scores.numpy(), target.tolist()), abs=1e-12)


def test_metric_counts_a_row_once_and_in_any_order():
    torch.manual_seed(0)
    scores, target, position = torch.randn(10, 7), torch.randint(0, 7, (10,)), torch.arange(10)
    straight, shuffled = ZeroShot(), ZeroShot()
    straight.update(scores, target)
    for order in ([7, 8, 9, 0], [3, 2, 1, 6], [4, 5, 0, 7]):  # two come again
        shuffled.update(scores[order], target[order], position[order])
    assert shuffled.compute() == straight.compute()
    for one, other in zip(shuffled.rankings(), straight.rankings(), strict=True):
        assert torch.equal(one, other)


def test_metric_forgets_and_can_be_called_like_any_other():
    metric = ZeroShot(top=(1,))
    assert metric(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == {"acc1": 1.0, "mean_per_class": 1.0}
    assert metric(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))["acc1"] == 0
    assert metric.compute() == {"acc1": 0.5, "mean_per_class": 0.5}
    metric.reset()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert metric.compute()["acc1"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_metric_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no row was added"):
        ZeroShot().compute()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("templates", [("{}",), ("a photo of {}", "{}!", "the {} {}")])
def test_evaluator_is_the_transcription(model, rows, names, batch_size, templates):
    evaluator = ZeroShotEvaluator(rows, "name", classes=names, templates=templates, batch_size=batch_size)
    one_slot = [template.replace("{} {}", "{0} {0}") for template in templates]
    scores = by_hand(model, rows, names, one_slot)
    assert evaluator(model) == pytest.approx(figures_of(scores, rows["number"][:]), abs=1e-12)


def test_evaluator_scores_also_among_fewer(model, make_rows, names):
    rows = make_rows().filter(lambda name: name in ("brick", "denim", "elm"), input_columns="name")
    figures = ZeroShotEvaluator(rows, "name", classes=names, among={"present": [rows]}, top=(1, 2))(model)
    kept = [names.index(name) for name in sorted(set(rows["name"]))]
    narrow = by_hand(model, rows, names)[:, kept]
    expected = figures_of(narrow, [kept.index(number) for number in rows["number"]])
    assert figures["acc1_among_present"] == pytest.approx(expected["acc1"])
    assert figures["mean_per_class_among_present"] == pytest.approx(expected["mean_per_class"])
    assert list(figures) == [f"{m}{s}" for s in ("", "_among_present") for m in ("acc1", "acc2", "mean_per_class")]


def test_class_embeddings_follow_weights_that_move_in_place(model, rows, names):
    evaluator = ZeroShotEvaluator(rows, "name", classes=names)
    before = evaluator(model)
    with torch.no_grad():
        model.text.mul_(-1)  # same tensor, same address: what was right is now last
    after = evaluator(model)
    assert after == pytest.approx(figures_of(by_hand(model, rows, names), rows["number"][:]), abs=1e-12)
    assert after != before


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, rows, names, training):
    model.train(training)
    model.dropout.eval()  # a frozen part of a model in training
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    ZeroShotEvaluator(rows, "name", classes=names)(model)
    assert model.training is training
    assert model.dropout.training is False
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()
    assert model.text.grad is None


def test_training_flags_come_back_after_an_error(model, rows, names):
    model.class_scores = lambda images, prepared: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ZeroShotEvaluator(rows, "name", classes=names)(model.train())
    assert model.training
    assert model.dropout.training


def test_labels_as_names_numbers_or_the_columns_own_classes_are_the_same(model, rows, names):
    own = rows.cast_column("number", ClassLabel(names=names))
    by_name = ZeroShotEvaluator(rows, "name", classes=names)(model)
    assert ZeroShotEvaluator(rows, "number", classes=names)(model) == by_name
    assert ZeroShotEvaluator(own, "number")(model) == by_name
    assert ZeroShotEvaluator(own, "number", classes_from=[own])(model) == by_name
    assert ZeroShotEvaluator(rows, "name", classes_from=[rows])(model).keys() == by_name.keys()


def test_artifacts_are_what_pictures_need(model, rows, names):
    evaluator = ZeroShotEvaluator(rows, "name", classes=names, batch_size=4)
    figures = evaluator(model)
    scores, target = by_hand(model, rows, names), rows["number"][:]
    rankings = evaluator.artifacts["rankings"]
    assert evaluator.artifacts["classes"] == names
    assert rankings.query.tolist() == list(range(len(rows)))
    np.testing.assert_array_equal(rankings.top, np.argsort(-scores, axis=1))
    np.testing.assert_array_equal(rankings.right, rankings.top.numpy() == np.array(target)[:, None])
    confusions = evaluator.artifacts["confusions"]
    assert sum(c.rows for c in confusions) == round((1 - figures["acc1"]) * len(rows))
    assert confusions == sorted(confusions, key=lambda c: (-c.rows, c.right, c.predicted))
    right, predicted, count = confusions[0]
    pairs = [(names[t], names[p]) for t, p in zip(target, scores.argmax(1), strict=True)]
    assert confusions[0] == Confusion(right, predicted, pairs.count((right, predicted)))
    assert count > 0


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        ({"label": "nome"}, "rows", "did you mean 'name'"),
        (
            {"label": "name", "classes": ["apple", "brick", "cloud", "denim", "elms"]},
            "classes",
            "'elm'.*nearest is 'elms'",
        ),
        ({"label": "name", "classes": ["elm", "apple", "elm"]}, "classes", "'elm' is there twice"),
        ({"label": "number"}, "label", "plain numbers"),
        ({"label": "number", "classes": ["apple"]}, "classes", "there are 1 names, but column 'number' holds"),
        ({"label": "name", "templates": ["a photo"]}, "templates", "a photo"),
        ({"label": "name", "templates": []}, "templates", "none"),
        ({"label": "name", "classes": ["a"], "classes_from": ["b"]}, "classes_from", "not by both"),
        ({"label": "name", "rows": "./nowhere.parquet"}, "rows", "nowhere.parquet"),
    ],
)
def test_wrong_arguments_are_named_when_it_is_made(rows, arguments, argument, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        ZeroShotEvaluator(**{"rows": rows, **arguments})
    assert caught.value.argument == argument


def test_a_row_outside_the_narrower_candidates_is_an_error(rows, names):
    with pytest.raises(ArgumentError, match="could never be right"):
        ZeroShotEvaluator(rows, "name", classes=names, among={"few": [rows.select([0])]})


def test_a_model_that_cannot_score_is_told_what_is_missing(rows, names):
    with pytest.raises(TypeError, match="Linear has no prepare and no class_scores"):
        ZeroShotEvaluator(rows, "name", classes=names)(torch.nn.Linear(1, 1))


def test_a_set_without_rows_is_an_error(model, rows, names):
    with pytest.raises(ValueError, match="no row to evaluate"):
        ZeroShotEvaluator(rows.select([]), "name", classes=names)(model)
