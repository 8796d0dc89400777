"""Orders and batches: pure, complete, distinct where asked, and the same whatever the ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clipkit.data.order import (
    EpochBatches,
    Place,
    SampleKey,
    distinct_batches,
    distinct_order,
    epoch_order,
    sample_rng,
)
from clipkit.types import ArgumentError


def test_sample_rng_depends_on_every_key_and_on_nothing_else():
    def draw(*keys):
        return sample_rng(*keys).integers(2**63)

    np.random.default_rng(5).random(100)
    keys = [(0, 1), (1, 0), (0, 1, 0), (0, 1, 0, 0), (0, 11), (0, 1, 1), (2**40, 1), (0, 2**40, 3)]
    assert [draw(*key) for key in keys] == [draw(*key) for key in keys]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(0, 1) == 6113349950364720740  # the same in every process and version


def test_sample_rng_is_uniform_over_neighbouring_keys():
    first = np.array([sample_rng(0, 0, position).random() for position in range(4000)])
    counts = np.histogram(first, 20, (0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 44  # chi-square of 19 degrees: p = 0.001
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_epoch_order_is_a_permutation_of_its_own():
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 4
    assert epoch_order(50, 1, 1).tolist() == list(orders[-1])
    assert epoch_order(9, 4, 2).tolist() == [0, 6, 5, 4, 8, 1, 7, 3, 2]  # in every process


def slow_most_batches(counts: list[int], batch: int) -> int:
    """The most batches, found by trying: always take the concepts with most rows left, which is optimal."""
    made, left = 0, sorted(counts, reverse=True)
    while sum(n > 0 for n in left) >= batch:
        left = sorted([n - 1 for n in left[:batch]] + left[batch:], reverse=True)
        made += 1
    return made


@pytest.mark.parametrize("seed", range(30))
def test_distinct_order(seed):
    rng = np.random.default_rng(seed)
    rows, kinds, batch = int(rng.integers(5, 400)), int(rng.integers(2, 60)), int(rng.integers(2, 20))
    concepts = (rng.zipf(1.5, rows) % kinds).astype(np.int64) * 7 - 3
    order = epoch_order(rows, seed, 0)
    made = distinct_order(order, concepts, batch)
    batches = made.reshape(-1, batch)
    assert len(batches) == slow_most_batches(list(Counter(concepts.tolist()).values()), batch)
    assert len(batches) == distinct_batches(concepts, batch)
    assert all(len(set(concepts[rows])) == batch for rows in batches)
    assert len(set(made.tolist())) == len(made)
    assert made.tolist() == distinct_order(order, concepts, batch).tolist()


def test_distinct_order_loses_less_than_a_batch_and_mixes():
    concepts = np.repeat(np.arange(200), 5)
    orders = [distinct_order(epoch_order(1000, 0, epoch), concepts, 64) for epoch in range(40)]
    assert all(len(order) == 960 for order in orders)
    assert {row for order in orders for row in order.tolist()} == set(range(1000))
    met = Counter()
    for order in orders:
        for batch in concepts[order].reshape(-1, 64):
            met.update(int(other) for other in batch if 7 in batch and other != 7)
    assert len(met) == 199  # each concept meets every other, and none much more often than another
    assert max(met.values()) < 2.2 * np.mean(list(met.values()))


def test_distinct_order_puts_a_batch_in_no_order_of_its_own():
    concepts = np.repeat(np.arange(200), 5)
    order = distinct_order(epoch_order(1000, 0, 0), concepts, 64).reshape(-1, 64)
    halves = concepts[order[:, :32]].mean(), concepts[order[:, 32:]].mean()
    assert abs(halves[0] - halves[1]) < 15


def keys_of(batches: EpochBatches) -> list[SampleKey]:
    return [key for batch in batches for key in batch]


def test_batches_of_an_epoch():
    batches = EpochBatches(10, 4, seed=3)
    keys = keys_of(batches)
    assert len(batches) == 2
    assert [key.position for key in keys] == list(range(8))
    assert [key.row for key in keys] == epoch_order(10, 3, 0)[:8].tolist()
    batches.set_epoch(5)
    assert [key.row for key in keys_of(batches)] == epoch_order(10, 3, 5)[:8].tolist()
    assert {key.epoch for key in keys_of(batches)} == {5}
    assert batches.sampler is batches  # Lightning calls set_epoch on it


@pytest.mark.parametrize("concepts", [None, np.arange(24) // 3])
def test_world_sizes_share_the_same_global_batches(concepts):
    one = list(EpochBatches(24, 6, 1, concepts=concepts))
    two = [list(EpochBatches(24, 3, 1, rank, 2, concepts)) for rank in (0, 1)]
    three = [list(EpochBatches(24, 2, 1, rank, 3, concepts)) for rank in (0, 1, 2)]
    assert one == [a + b for a, b in zip(*two, strict=True)]
    assert one == [a + b + c for a, b, c in zip(*three, strict=True)]


def test_it_starts_where_it_is_told_and_runs_over():
    places = [Place(1, 4)]
    batches = EpochBatches(10, 4, start=lambda: places[0])
    keys = keys_of(batches)
    assert [(key.epoch, key.position) for key in keys[::4]] == [(1, 4), (2, 0)]
    assert keys == keys_of(batches)  # however often it is asked
    batches.set_epoch(9)
    assert keys == keys_of(batches)  # somebody counts: the trainer's epoch does not matter
    iterator = iter(batches)
    places[0] = Place(1, 0)
    assert next(iterator)[0][:2] == (1, 0)  # asked at the first batch


def test_after():
    batches = EpochBatches(10, 4)
    assert batches.after(Place(), 1) == (0, 4)
    assert batches.after(Place(), 2) == (1, 0)
    assert batches.after(Place(3, 4), 3) == (5, 0)
    assert batches.after(Place(3, 3), 1) == (4, 0)  # of another batch size: 7 is consumed, and 3 left
    assert batches.after(Place(3, 7), 1) == (4, 4)
    batches.set_epoch(6)
    assert batches.after(Place(), 1) == (6, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 3, "batch_size": 4}, "4 is more than the 3 training rows"),
        ({"rows": 6, "batch_size": 4, "world_size": 2}, "4 on each of 2 devices is more than the 6"),
        ({"rows": 6, "batch_size": 4, "concepts": np.arange(6) % 3}, "4 is more than the 3 distinct concepts"),
    ],
)
def test_too_large(arguments, message):
    with pytest.raises(ArgumentError, match=message) as raised:
        EpochBatches(**arguments)
    assert raised.value.argument == "batch_size"
