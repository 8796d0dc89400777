"""Two gloo ranks with half the batch each, or micro-batches, give the loss and every gradient of one rank at once."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipkit.distributed import all_logsumexp, gather, gather_objects, rank, world_size
from clipkit.objectives import InfoNCE, Sigmoid, Sum
from clipkit.tasks import ContrastiveTask
from clipkit.types import Embeddings, ImageTextBatch

ROWS = 8
CONCEPTS = {"row": None, "shared": [1, 2, 1, 3, 2, 1, 4, 5]}  # pairs of equals within a rank and across both
OBJECTIVES = {
    "info_nce": InfoNCE,
    "sigmoid": Sigmoid,
    "sum": lambda tile=None: Sum({"nce": InfoNCE(tile=tile), "pairs": Sigmoid(tile=tile)}, {"pairs": 0.5}),
}
# Precision, rows of the similarities at a time, and rows of the model at a time.
BARS = {torch.float64: 1e-10, torch.float32: 1e-5}
WAYS = {
    "fp64": (torch.float64, None, None),
    "fp32": (torch.float32, None, None),
    "fp64 in strips": (torch.float64, 3, None),
    "fp32 in strips": (torch.float32, 3, None),
    "fp64 in micro-batches": (torch.float64, None, 2),
    "fp32 in micro-batches": (torch.float32, None, 2),
    "fp32 in strips and micro-batches": (torch.float32, 3, 3),
}


class Step(nn.Module):
    """A task's loss as a module, for DistributedDataParallel."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, batch):
        return self.task._both(batch)[1].loss


def half(batch, index, rows=ROWS):
    return type(batch)(*(column[index * rows // 2 :] for column in batch[:-1]), {}).first(rows // 2)


@pytest.fixture(scope="module")
def task_of(make_model):
    model = make_model(init_logit_bias=-3.0)

    def make(objective, way="fp64"):
        dtype, tile, rows = WAYS[way]
        task = ContrastiveTask(copy.deepcopy(model), OBJECTIVES[objective](tile=tile), micro_batch_size=rows)
        return task.to(dtype)

    return make


def loss_and_gradients(step, batch):
    loss = step(batch)
    loss.backward()
    parameters = (step.module if isinstance(step, DistributedDataParallel) else step).named_parameters()
    return {"loss": loss.detach(), **{name: p.grad for name, p in parameters if p.grad is not None}}


@pytest.fixture(scope="module")
def two_ranks(on_ranks, task_of, make_batch):
    """What both ranks found."""

    def work(index, world):
        found = {}
        for case in itertools.product(OBJECTIVES, CONCEPTS, WAYS):
            objective, concepts, way = case
            # what InfoNCE alone does not read gets no gradient, as in a real run with an idle bias
            unused = objective == "info_nce"
            step = DistributedDataParallel(Step(task_of(objective, way)), find_unused_parameters=unused)
            found[case] = loss_and_gradients(step, half(make_batch(ROWS, CONCEPTS[concepts]), index))
            dist.all_reduce(found[case]["loss"], dist.ReduceOp.SUM)
            found[case]["loss"] /= world
        found["validation"] = [
            Step(task_of(objective)).eval()(half(make_batch(ROWS), index)).detach() for objective in OBJECTIVES
        ]
        found["collectives"] = collectives(index, world)
        found["objects"] = gather_objects({"rank": index, "state": torch.full((index + 1,), index)})
        return found

    return on_ranks(work)


def collectives(index, world):
    x = torch.full((2,), float(index + 1), dtype=torch.float64, requires_grad=True)
    gathered = gather(x)
    gathered.backward(torch.arange(4, dtype=torch.float64) * (index + 1))
    y = torch.full((2,), float(index), dtype=torch.float64, requires_grad=True)
    total = all_logsumexp(y)
    total.sum().backward()
    assert (rank(), world_size()) == (index, world)
    half_precision = gather(torch.full((1, 2), index, dtype=torch.bfloat16))
    return gathered.detach(), x.grad, total.detach(), y.grad, half_precision, gather(torch.tensor([index]))


def at_once(way):
    """The same precision with nothing split."""
    return "fp64" if "fp64" in way else "fp32"


def assert_equal(mine, reference, way):
    bar = BARS[WAYS[way][0]]
    assert mine.keys() == reference.keys()
    for name, value in reference.items():
        if value.dtype == torch.float64:
            torch.testing.assert_close(mine[name], value, rtol=bar, atol=bar, msg=f"{name} differs")
        else:  # by the largest entry: the smallest are what is left of sums of such as that
            off = float((mine[name] - value).abs().max() / value.abs().max())
            assert off <= bar, f"{name} differs by {off}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_process_in_other_ways_gives_the_same(task_of, make_batch, objective, way):
    for ids in CONCEPTS.values():
        reference = loss_and_gradients(Step(task_of(objective, at_once(way))), make_batch(ROWS, ids))
        assert_equal(loss_and_gradients(Step(task_of(objective, way)), make_batch(ROWS, ids)), reference, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("concepts", CONCEPTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_ranks_equal_one(two_ranks, task_of, make_batch, objective, concepts, way):
    reference = loss_and_gradients(Step(task_of(objective, at_once(way))), make_batch(ROWS, CONCEPTS[concepts]))
    assert {"task.model.head.logit_scale", "task.model.vision.backbone.patch_embed.proj.weight"} <= reference.keys()
    assert ("task.model.head.logit_bias" in reference) == (objective != "info_nce")
    for found in two_ranks:
        assert_equal(found[objective, concepts, way], reference, way)
    if objective == "info_nce" and concepts == "row":
        assert float(reference["task.model.head.logit_scale"].abs()) > 1e-3  # so that the bar means something


@pytest.mark.parametrize("objective", ["info_nce", "sigmoid"])
def test_no_rank_holds_all_similarities(on_ranks, largest_made, make_batch, objective):
    """At once a rank holds its own rows of them, in strips a strip of those."""
    count, tile = 96, 3

    def work(index, world):
        found, batch = [], half(make_batch(count), index, count)
        for rows in (None, tile):
            leaves = [torch.randn(count // world, 2).requires_grad_() for _ in range(2)]
            outputs = Embeddings(*leaves, torch.ones(()), torch.zeros(()))
            with largest_made() as largest:
                OBJECTIVES[objective](tile=rows)(outputs, batch).loss.backward()
            assert all(leaf.grad.abs().sum() > 0 for leaf in leaves)
            found.append(largest.elements)
        return found

    assert on_ranks(work) == [[count // 2 * count, tile * count]] * 2


@pytest.mark.parametrize("tile", [None, 1])
@pytest.mark.parametrize("concepts", [[0, 1], [0, 0]])
def test_one_pair_a_rank(on_ranks, tile, concepts):
    """Where no rank has two images, half of the sums a rank has are empty."""

    def loss_of(index, count):
        generator = torch.Generator().manual_seed(0)
        image, text = (torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        rows, ids = slice(index, index + count), torch.tensor(concepts)
        leaves = [x[rows].clone().requires_grad_() for x in (image, text)]
        batch = ImageTextBatch(ids[rows], ids[rows], ids[rows] > -1, ids[rows], ids[rows], {})
        loss = InfoNCE(tile=tile)(Embeddings(*leaves, torch.tensor(2.0, dtype=torch.float64)), batch).loss
        loss.backward()
        return loss.detach(), *(leaf.grad for leaf in leaves)

    ranks, (loss, image, text) = on_ranks(lambda index, world: loss_of(index, 1)), loss_of(0, 2)
    torch.testing.assert_close(sum(found[0] for found in ranks) / 2, loss)
    for index, (_, by_image, by_text) in enumerate(ranks):
        torch.testing.assert_close(by_image / 2, image[index : index + 1])  # DDP averages over ranks
        torch.testing.assert_close(by_text / 2, text[index : index + 1])


def test_a_validation_loss_is_of_each_rank_alone(two_ranks, task_of, make_batch):
    for index, found in enumerate(two_ranks):
        for objective, loss in zip(OBJECTIVES, found["validation"], strict=True):
            alone = Step(task_of(objective)).eval()(half(make_batch(ROWS), index))
            torch.testing.assert_close(loss, alone.detach(), rtol=1e-12, atol=1e-12)


def test_collectives(two_ranks):
    for index, found in enumerate(two_ranks):
        gathered, gradient, logsumexp, softmax, half_precision, ids = found["collectives"]
        assert gathered.tolist() == [1, 1, 2, 2]
        assert gradient.tolist() == [[0.0, 3.0], [6.0, 9.0]][index]  # summed over ranks, sent home
        whole = torch.tensor([0.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(logsumexp, whole.logsumexp(0).expand(2))
        # both ranks read the sum, so each part's gradient comes twice
        torch.testing.assert_close(softmax, 2 * whole.softmax(0)[index].expand(2))
        assert half_precision.tolist() == [[0, 0], [1, 1]] and half_precision.dtype == torch.bfloat16
        assert ids.tolist() == [0, 1]


def test_objects_of_any_size_reach_every_rank_in_order(two_ranks):
    for found in two_ranks:
        assert [one["rank"] for one in found["objects"]] == [0, 1]
        assert [one["state"].tolist() for one in found["objects"]] == [[0], [1, 1]]


def test_with_no_process_group():
    x = torch.ones(3)
    assert (rank(), world_size()) == (0, 1)
    assert gather(x) is x
    assert all_logsumexp(x) is x
    assert gather_objects(x) == [x]
