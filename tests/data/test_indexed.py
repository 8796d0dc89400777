"""Going on within an epoch costs what is left of it: no row before the place is read again."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from datasets import Dataset, Features, Image, Value

import clipkit.data.collate as collate
from clipkit.data import CaptionDataModule
from clipkit.data.order import epoch_order

from .malformed import picture

ROWS, BATCH = 200, 10


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("many") / "set")
    images = [{"bytes": picture(size=(9 + row % 7, 8)), "path": None} for row in range(ROWS)]
    features = Features(image=Image(), text=Value("string"))
    Dataset.from_dict({"image": images, "text": [f"thing {row}" for row in range(ROWS)]}, features).save_to_disk(folder)
    return folder


@pytest.fixture
def read(monkeypatch):
    """The numbers of all rows that are read, one list a call."""
    calls = []

    def spied(rows, numbers, image, real=collate.read_rows):
        calls.append(list(numbers))
        return real(rows, numbers, image)

    monkeypatch.setattr(collate, "read_rows", spied)
    return calls


@pytest.mark.parametrize("epoch", [0, 3])
def test_resumed_at_90_percent_of_an_epoch(spec, many, read, epoch):
    def made():
        data = CaptionDataModule(many, batch_size=BATCH, workers=0, seed=7)
        data.inputs = spec
        return data

    place, before = ROWS * 9 // 10, made()
    before.advance(epoch * ROWS // BATCH + place // BATCH)
    state = before.state_dict()
    data = made()
    data.load_state_dict(state)
    assert read == []  # neither a new module nor a loaded place reads anything of the rows' images
    batches = iter(data.train_dataloader())
    first = next(batches)
    order = epoch_order(ROWS, 7, epoch).tolist()
    assert read == [order[place : place + BATCH]]  # the rows of the first batch, once
    assert first.concept.tolist() == order[place : place + BATCH]
    assert torch.equal(first.position, torch.arange(place, place + BATCH))
    next(batches)
    assert list(chain.from_iterable(read)) == order[place:]
    next(batches)
    assert read[-1] == epoch_order(ROWS, 7, epoch + 1).tolist()[:BATCH]  # and then the next epoch
