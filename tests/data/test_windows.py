"""The order of a stream, against what must hold of it whatever the shards: nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from itertools import islice, takewhile

import pytest

from clipkit.data.sharded import KEY, SOURCE, TOP, Begin
from clipkit.data.skips import Skipped, TooManyUnusable
from clipkit.data.windows import Consumer, StreamPlace, Windows


class Numbers:
    """Shards of so many rows, which remember what was read; a negative number is a shard of bad rows."""

    image = None

    def __init__(self, sizes):
        self.sizes, self.names, self.read = sizes, [f"s{i}" for i in range(len(sizes))], []

    def parts(self, shard, begin=TOP, columns=None):
        for row in range(begin.row, abs(self.sizes[shard])):
            self.read.append((shard, row))
            key = {SOURCE: f"s{shard}", KEY: f"{row}"}
            yield (
                Begin(0, row),
                [key if self.sizes[shard] > 0 else Skipped(f"s{shard}", f"{row}", "undecodable", "bad", None)],
            )


def names(found):
    return [(one[SOURCE], one[KEY]) if isinstance(one, dict) else (one.source, one.key) for one, _ in found]


def turn(windows, number=0):
    """The rows of one turn."""
    return names(takewhile(lambda found: found[1].turn == number, windows.read(StreamPlace(number))))


@pytest.mark.parametrize("loaders", [1, 2, 3, 4, 8, 30])
@pytest.mark.parametrize("sizes", [[5], [3, 4], [10] * 8, [1, 7, 30, 2, 2]])
def test_the_loaders_of_a_turn_read_every_row_once(sizes, loaders):
    shards = Numbers(sizes)
    seen = Counter()
    for number in range(loaders):
        windows = Windows(shards, Consumer(number, loaders), seed=3, window=4)
        first = next(iter(windows.read()))[1]
        if first.turn == 0:  # else its shards hold nothing for it, and it reads those of others again
            seen.update(turn(windows))
    assert seen == Counter((f"s{i}", f"{row}") for i, size in enumerate(sizes) for row in range(size))


def test_turns_and_windows_are_shuffled_and_seeded():
    def orders(seed, number=0):
        windows = Windows(Numbers([10, 10, 10]), Consumer(), seed=seed, window=15)
        return turn(windows, number)

    assert orders(1) == orders(1)
    assert len({tuple(order) for order in (orders(1), orders(1, 1), orders(2), orders(2, 1))}) == 4
    assert sorted(orders(1)) == sorted(orders(1, 1))
    first = orders(1)[:15]  # the rows of a shard and a half, well mixed
    assert sorted({name for name, _ in first}) != sorted({name for name, _ in orders(1)})
    assert first != sorted(first)


@pytest.mark.parametrize("sizes", [[9, 0, 4, 1], [0, 0, 3], [25], [-3, 4, 0, 6]])
@pytest.mark.parametrize("consumer", [Consumer(), Consumer(1, 2), Consumer(3, 4)])
def test_going_on_from_anywhere_reads_at_most_one_window_again(sizes, consumer):
    def windows():
        return Windows(Numbers(sizes), consumer, seed=5, window=4)

    whole = list(islice(windows().read(), 60))
    for taken in range(60):
        place = whole[taken - 1][1] if taken else StreamPlace()
        again = windows()
        assert list(islice(again.read(StreamPlace(*list(place))), 60 - taken)) == whole[taken:]
    again = windows()
    next(again.read(whole[30][1]))
    if again.share.loaders == 1:  # else it reads the rows of those it shares with, too
        assert len(again.shards.read) <= 9  # the window, the next where that one was used up, and one row beyond


def test_a_loader_with_nothing_of_its_own_reads_what_others_have():
    sizes = [0, 1, 7, 1000]
    for number in range(4):
        windows = Windows(Numbers(sizes), Consumer(number, 4), window=50)
        found = list(islice(windows.read(), 1500))
        places = [place for _, place in found]
        own = sum(sizes[shard] for shard in windows.own)
        assert sum(place.turn == 0 for place in places) == own
        assert all(place.borrowed == (own == 0) for place in places)
        assert len(set(names(found))) == (own or sum(sizes))


def test_shards_with_nothing_at_all():
    with pytest.raises(TooManyUnusable, match="no sample in any of 3 shards, s0 first"):
        next(Windows(Numbers([0, 0, 0])).read())
    with pytest.raises(TooManyUnusable, match="no sample in any"):
        next(Windows(Numbers([0, 0, 0]), resample=True).read())


def test_a_key_that_comes_twice_in_a_window():
    class Twice(Numbers):
        def parts(self, shard, begin=TOP, columns=None):
            for at, items in super().parts(shard, begin):
                yield at, [{**items[0], KEY: str(at.row % 6)}]

    windows = Windows(Twice([12]), window=12)
    found = [one for one, _ in islice(windows.read(), 12)]
    left_out = [one for one in found if isinstance(one, Skipped)]
    assert sorted(one[KEY] for one in found if isinstance(one, dict)) == list("012345")
    assert {one.reason for one in left_out} == {"duplicate_key"} and len(left_out) == 6


@pytest.mark.parametrize(
    "columns",
    [
        {"image": {"bytes": b"0" * 90, "path": None}},
        {"image": None, "txt": "0" * 90},
        {"txt": "\U0001f600" * 25},  # four bytes each
        {"txt": ["0" * 40, None, "0" * 40]},
        {"image": {"bytes": b"0" * 40, "path": None}, "json": {"text": "0" * 40, "width": 5}},
    ],
    ids=["image", "caption", "emoji", "captions", "both"],
)
def test_a_window_is_closed_by_its_bytes_too(monkeypatch, columns):
    class Heavy(Numbers):
        image = "image"

        def parts(self, shard, begin=TOP, columns_=None):
            for at, items in super().parts(shard, begin):
                yield at, [{**items[0], **columns}]

    monkeypatch.setattr("clipkit.data.windows.MOST_BYTES", 250)
    places = [place for _, place in islice(Windows(Heavy([30])).read(), 30)]
    assert Counter(place.window for place in places) == dict.fromkeys(range(10), 3)


def test_resampling_draws_from_all_shards_for_ever():
    windows = Windows(Numbers([3] * 10), Consumer(0, 5), resample=True, window=3)
    found = names(islice(windows.read(), 300))
    assert {name for name, _ in found} == {f"s{i}" for i in range(10)}
    assert found[6:] == names(islice(windows.read(StreamPlace(1)), 294))
