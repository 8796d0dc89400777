"""Two ranks, sharded by whole batches, give exactly what one gives."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from clipkit.evaluation import Retrieval, RetrievalEvaluator, ZeroShot, ZeroShotEvaluator


def as_rank(rank, world, folder, work):
    torch.set_num_threads(1)  # the parent's threads did not come along
    store = dist.FileStore(str(folder / f"store{world}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.save(work(rank, world), folder / f"{rank}of{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(world, folder, work):
    """What ``work(rank, world)`` returns on each rank; forked, since the imports cost more than the tests."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=as_rank, args=(rank, world, folder, work)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0] * world
    return [torch.load(Path(folder) / f"{rank}of{world}.pt", weights_only=False) for rank in range(world)]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# 11 rows: in fours three batches, the last one short and rank 1 left with one; in sixteens rank 1 has none at all
@pytest.mark.parametrize("batch_size", [4, 2, 16])
def test_evaluators_give_the_same_to_the_last_bit(tmp_path, model, rows, names, batch_size):
    evaluators = [
        ZeroShotEvaluator(rows, "name", classes=names, batch_size=batch_size, among={"present": [rows]}),
        RetrievalEvaluator(rows, batch_size=batch_size),
        RetrievalEvaluator(rows, caption="name", concept="number", batch_size=batch_size),
    ]

    def work(rank, world):
        model.calls.clear()
        return [(e(model), e.artifacts) for e in evaluators], len(model.calls)

    ((alone, calls_alone),) = on_ranks(1, tmp_path, work)
    (first, calls_first), (second, calls_second) = on_ranks(2, tmp_path, work)
    assert same(first, alone)
    assert same(second, alone)
    assert calls_first == calls_second  # sharded models gather their weights in each call
    assert calls_first == len(evaluators) * -(-calls_alone // len(evaluators) // 2)


def test_metrics_sync_rows_that_were_dealt_in_any_way(tmp_path):
    generator = torch.Generator().manual_seed(0)
    image, text, scores = (torch.randn(23, 6, generator=generator) for _ in range(3))
    target, position = torch.randint(0, 6, (23,), generator=generator), torch.arange(23)

    def work(rank, world):
        retrieval, zero_shot, counted = Retrieval(), ZeroShot(), ZeroShot()
        # a sampler that repeats rows to make the shares even: 23 rows are 12 each
        mine = torch.arange(rank, 24, world) % 23
        for part in mine.split(5):
            retrieval.update(image[part], text[part], position[part])
            zero_shot.update(scores[part], target[part], position[part])
            counted.update(scores[part], target[part])  # no positions: every row of every rank counts
        return retrieval.compute(), zero_shot.compute(), len(counted.rankings().query), retrieval.rankings()

    (alone,) = on_ranks(1, tmp_path, work)
    for found in on_ranks(2, tmp_path, work):
        assert same(found, alone)
    assert alone[2] == 24


def test_a_rank_that_saw_nothing_is_no_trouble(tmp_path):
    image, text = torch.eye(5), torch.eye(5)

    def work(rank, world):
        retrieval, zero_shot = Retrieval(), ZeroShot()
        for metric in (retrieval, zero_shot):
            metric.reset()  # the same after as before
        if rank == 0:
            retrieval.update(image, text)
            zero_shot.update(image, torch.arange(5))
        return retrieval.compute(), zero_shot.compute()

    (alone,) = on_ranks(1, tmp_path, work)
    assert same(on_ranks(2, tmp_path, work), [alone, alone])
