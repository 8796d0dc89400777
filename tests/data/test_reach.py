"""Shards that a server no longer gives, through the real loader: one is counted, many in a row end the run."""

from __future__ import annotations

import re

import pytest

from clipkit.data import Skipped, TooManyUnusable
from clipkit.data.loader import _end_workers
from clipkit.data.reach import MOST, Lost
from clipkit.types import ArgumentError

from .malformed import samples, tar
from .servers import braced, read_epoch

ATTEMPTS = 2


@pytest.fixture
def served(serve, make):
    """``served(names)``: a module of shards of the server, each waited for a little."""

    def made(names, **options):
        files = {name: tar(samples(name.replace(".tar", "-"))) for name in names}
        addresses = serve(files, attempts=ATTEMPTS, timeout=0.3)
        return make(braced(addresses), **{"batch_size": 2, "epoch_steps": 50, "window": 5, **options})

    return made


@pytest.mark.parametrize("behaviour", ["never", "hangup", "broken"])
def test_a_shard_that_stalls_is_a_counted_skip_for_two_workers(served, behaviour):
    used, skips = read_epoch(served([f"{behaviour}/0.tar", *(f"fine/{i}.tar" for i in range(4))], workers=2))
    assert len(used) == 40
    assert skips == {(f"{behaviour}/0.tar", "unreachable_shard")}


@pytest.mark.parametrize("behaviour", ["never", "hangup"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_host_that_dies_ends_the_run_after_a_few_shards(served, running, behaviour, workers):
    """Of forty shards that stall from then on, three are waited for."""
    data = served([f"dying-{behaviour}/{i:03}.tar" for i in range(40)], workers=workers, window=20)
    batches = iter(data.train_dataloader())
    next(batches)
    running.dead.set()
    asked = {name: len(begins) for name, begins in running.gets.items()}
    try:
        with pytest.raises(TooManyUnusable) as told:
            list(batches)
    finally:
        running.dead.clear()
    message = str(told.value).strip().splitlines()[-1]
    _end_workers()  # else it is left to the collector, which breaks their queues first and waits for them
    assert re.search(r"nothing came of 3 shards in a row; the last: http://127\.0\.0\.1:\d+/dying-", message)
    assert message.count(".tar: given up after 2 attempts in a row; the last: ") == 3
    afterwards = sum(len(begins) - asked.get(name, 0) for name, begins in running.gets.items())
    # Where a kept connection is gone the client asks again on its own; and some are under way.
    assert afterwards <= (2 * 3 * ATTEMPTS + 2) * max(1, workers)


def test_many_missing_shards_among_others_end_nothing(served):
    names = [f"missing/{i}.tar" for i in range(20)] + ["fine/0.tar", "fine/1.tar"]
    used, skips = read_epoch(served(names, epoch_steps=20))
    assert len(used) == 20
    assert skips == {(name, "refused_shard") for name in names[:20]}


def test_nothing_but_missing_shards_is_refused_at_once(served, running):
    with pytest.raises(ArgumentError, match=r"^train: no sample is found in .*the server answered 404"):
        served([f"missing/{i:03}.tar" for i in range(200)])
    assert len(running.gets) == MOST["refused_shard"]


def test_what_is_counted():
    def told(reason):
        return Skipped("s", "", reason, "s: why", None)

    lost = Lost()
    for _ in range(2):
        lost.count([told("unreachable_shard")])
    assert not lost.too_many
    lost.count([{}])  # a row
    lost.count([told("damaged_shard"), told("unreachable_shard"), told("refused_shard"), told("unreachable_shard")])
    lost.refuse_more()
    lost.count([told("unreachable_shard")])
    with pytest.raises(TooManyUnusable, match=r"^nothing came of 4 shards in a row; the last: s: why; s: why; s: why$"):
        lost.refuse_more()
