"""Batches of about equal length: the same rows, less padding, and an order that is still a pure function."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from clipkit.data import CaptionDataModule, EpochBatches
from clipkit.data.buckets import BUCKET, bucketed_order, caption_lengths
from clipkit.data.order import Place, epoch_order, sample_rng
from clipkit.types import ArgumentError

LENGTHS = np.random.default_rng(0).integers(1, 200, 5000)


def padding(order, batch):
    """Share of a padded batch that is padding, in the mean."""
    batches = LENGTHS[order[: len(order) // batch * batch]].reshape(-1, batch)
    return 1 - batches.sum() / (batches.max(1) * batch).sum()


def test_the_same_rows_with_little_padding():
    order = epoch_order(len(LENGTHS), 0, 0)
    sorted_in = bucketed_order(order, LENGTHS, 32, sample_rng(0, 0))
    assert sorted(sorted_in) == sorted(order) and not np.array_equal(sorted_in, order)
    assert padding(sorted_in, 32) < 0.1 < 0.4 < padding(order, 32)
    whole = len(order) // 32 * 32
    assert np.array_equal(sorted_in[whole:], order[whole:])


def test_no_sample_leaves_its_bucket_and_steps_come_in_random_order():
    order = epoch_order(len(LENGTHS), 0, 0)
    sorted_in, size = bucketed_order(order, LENGTHS, 32, sample_rng(0, 0)), BUCKET * 32
    for start in range(0, len(order), size):
        assert set(sorted_in[start : start + size]) == set(order[start : start + size])
    means = LENGTHS[sorted_in[:size]].reshape(BUCKET, 32).mean(1)
    assert abs(np.corrcoef(np.arange(BUCKET), means)[0, 1]) < 0.5
    step = LENGTHS[sorted_in[: 32 * BUCKET]].reshape(BUCKET, 32)
    assert np.abs(step[:, :16].mean(1) - step[:, 16:].mean(1)).mean() < 2  # both ranks' halves alike


def test_ranks_and_accumulated_batches_share_the_same_steps():
    one = [[key.row for key in batch] for batch in EpochBatches(640, 16, 3, lengths=LENGTHS[:640])]
    ranks = [list(EpochBatches(640, 8, 3, rank, 2, lengths=LENGTHS[:640])) for rank in (0, 1)]
    two = [[key.row for key in (*a, *b)] for a, b in zip(*ranks, strict=True)]
    assert one == two
    parts = list(EpochBatches(640, 4, 3, accumulated=4, lengths=LENGTHS[:640]))
    four = [[key.row for part in parts[i : i + 4] for key in part] for i in range(0, len(parts), 4)]
    assert one == four


def test_going_on_in_the_middle_of_an_epoch():
    every = list(EpochBatches(640, 16, 3, lengths=LENGTHS[:640]))
    rest = list(EpochBatches(640, 16, 3, start=lambda: Place(0, 16 * 7), lengths=LENGTHS[:640]))
    assert rest[: len(every) - 7] == every[7:]


def test_lengths_of_strings_lists_and_none():
    rows = Dataset.from_dict({"a": ["ab", None, "é"], "b": [["x", "yyyy"], [], None], "c": [1, 2, 3]})
    assert caption_lengths(rows, ["a", "b"]).tolist() == [4, 0, 2]
    assert caption_lengths(rows.select([2, 0]), ["a"]).tolist() == [2, 2]
    assert caption_lengths(rows.select([]), ["a"]).tolist() == []


def test_the_data_module_sorts_and_says_so_in_its_state():
    plain, sorted_in = (CaptionDataModule(caption="name", batch_size=64, by_length=on) for on in (False, True))
    names = sorted_in.train_rows["name"]

    def spread(module):
        steps = [[len(names[key.row]) for key in batch] for batch in module.training.batches]
        return np.mean([max(step) - min(step) for step in steps])

    assert spread(sorted_in) < spread(plain) / 2
    assert (plain.state_dict()["by_length"], sorted_in.state_dict()["by_length"]) == (False, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distinct_concepts": True, "concept": "concept"}, "other samples together than `distinct_concepts`"),
        ({"streaming": True, "epoch_steps": 3}, "a stream comes as it is"),
    ],
)
def test_what_does_not_go_together(options, message, tmp_path):
    train = "emoji"
    if "streaming" in options:
        train = str(tmp_path / "rows.parquet")
        CaptionDataModule(caption="name").train_rows.select(range(20)).to_parquet(train)
    with pytest.raises(ArgumentError, match=f"by_length: .*{message}"):
        CaptionDataModule(train, caption="name", by_length=True, **options)
