"""Several data sets as one: shares kept at every point, each row of a source before any again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipkit.data import CaptionDataModule, Place
from clipkit.data.mixture import Mixture, metric_names, mixed_order, read_weights, turns
from clipkit.types import ArgumentError


def slow_turns(shares, count):
    """The source that is due first, one after the other."""
    drawn, found = [0] * len(shares), []
    for _ in range(count):
        due = [(n + 0.5) / share for n, share in zip(drawn, shares, strict=True)]
        found.append(due.index(min(due)))
        drawn[found[-1]] += 1
    return found


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.2, 0.1), (0.99, 0.01), (1 / 3,) * 3])
def test_turns_keep_the_shares_all_along(shares):
    found = turns(shares, 500)
    assert found.tolist() == slow_turns(shares, 500)
    for source, share in enumerate(shares):
        counts = np.cumsum(found == source)
        assert np.abs(counts - share * np.arange(1, 501)).max() < len(shares)


def test_a_source_is_gone_through_before_it_begins_again():
    mixture = Mixture(("a", "b"), (0.25, 0.75), np.array([0] * 10 + [1] * 7))
    epochs = [mixed_order(mixture, seed=2, epoch=epoch) for epoch in range(8)]
    assert all(np.array_equal(one, mixed_order(mixture, 2, i)) for i, one in enumerate(epochs))
    drawn = np.concatenate(epochs)
    for source, rows in enumerate((range(10), range(10, 17))):
        own = [row for row in drawn.tolist() if mixture.group[row] == source]
        for begin in range(0, len(own) - len(rows), len(rows)):
            assert sorted(own[begin : begin + len(rows)]) == list(rows)
    assert not np.array_equal(epochs[0], mixed_order(mixture, 3, 0))


def test_weights_are_read():
    assert read_weights("a") == {"a": None}
    assert read_weights(["a", "b"]) == {"a": None, "b": None}
    assert read_weights({"a": 3, "b": 1}) == {"a": 0.75, "b": 0.25}
    for wrong, match in (([], "at least one"), (["a", "a"], "'a' is given twice"), ({"a": 0}, "weight of 'a' is 0")):
        with pytest.raises(ArgumentError, match=match):
            read_weights(wrong)


def test_no_two_sources_are_logged_as_one():
    secret = metric_names(["http://me:pw@x/{0..9}.tar?key=1"])
    assert secret == metric_names(["http://x/{0..9}.tar"]) and "{" not in secret[0]
    long = [f"/{where}/{'x' * 80}" for where in ("here", "there")]
    assert metric_names(["a b", "a!b", *long, "a_b-2", "a?b"]) == [
        "data/from_a_b", "data/from_a_b-2", f"data/from_{'x' * 80}", f"data/from_{'x' * 80}-2", "data/from_a_b-2-2",
        "data/from_a_b-3",
    ]  # fmt: skip


@pytest.fixture
def other(tmp_path, columns):
    """Twelve rows with other names of columns."""
    made = columns(range(200, 212))
    renamed = {"picture" if name == "image" else name: value for name, value in made.items()}
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"img": renamed["picture"], "text": made["captions"], "size": made["size"]}), path)
    return str(path)


def sizes(data, epoch=0):
    data.training.place = Place(epoch)
    return [value for batch in data.train_dataloader() for value in batch.extra["size"].tolist()]


def test_data_sets_one_after_the_other(folder, other, make):
    data = make([f"{folder}:train", other], extra=["size"], batch_size=53)
    assert len(data.train_rows) == 53
    assert Counter(sizes(data)) == Counter([i / 4 for i in (*range(41), *range(200, 212))])
    assert data.figures() == {}


def test_data_sets_by_weight(folder, other, make, spec):
    mixture = {f"{folder}:train": 1.0, other: 3.0}
    data = make(mixture, extra=["size"], batch_size=8)
    seen = sizes(data)
    assert len(seen) == 48
    assert sum(value >= 50 for value in seen) == 36  # three in four, three times each
    assert Counter(value for value in seen if value >= 50) == Counter([i / 4 for i in range(200, 212)] * 3)
    data.training.place = Place(0, 16)
    assert list(data.figures().values()) == [4, 12]
    again = make(mixture, extra=["size"], batch_size=8, workers=2)
    assert sizes(again) == seen
    assert sizes(again, 1) != seen
    state = data.state_dict()
    changed = make({**mixture, other: 1.0}, batch_size=8)
    with pytest.warns(UserWarning, match="weights differs"):
        changed.load_state_dict(state)
    assert torch.equal(next(iter(data.train_dataloader())).position, torch.arange(16, 24))


def test_what_does_not_go_together(folder, tmp_path, columns):
    made = columns(range(8))
    made["captions"] = ["one"] * 8
    pq.write_table(pa.table(made), tmp_path / "single.parquet")
    with pytest.raises(ArgumentError, match=r"holds .* where"):
        CaptionDataModule([f"{folder}:train", f"{tmp_path}/single.parquet"])
    with pytest.raises(ArgumentError, match=r"in .*single.parquet.*no column 'tag'"):
        CaptionDataModule([f"{tmp_path}/single.parquet", f"{folder}:train"], caption="tag")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_mixture_goes_on_as_the_undisturbed_one(folder, other, make, workers):
    """In the second epoch too, where the sources begin again at different places."""

    def made():
        return make({f"{folder}:train": 1.0, other: 3.0}, extra=["size"], batch_size=8, workers=workers)

    def consume(data, batches=None):
        found, states = [], []
        for batch in data.train_dataloader():
            found.append((batch.position.tolist(), batch.extra["size"].tolist(), batch.image.sum().item()))
            data.advance(1)
            states.append((data.state_dict(), data.figures()))
        return found, states

    whole = made()
    first, states = consume(whole)
    second, later = consume(whole)
    assert len(first) == len(second) == 6 and first != second
    for after, (state, figures) in enumerate(states + later[:-1], 1):
        again = made()
        again.load_state_dict(state)
        assert again.figures() == figures
        assert consume(again)[0][: 12 - after] == (first + second)[after : after + 6]
