"""The data module: the same batches however they are made, and every mistake named."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from types import SimpleNamespace

import datasets
import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from jsonargparse import ArgumentParser

import clipkit.data.module as module
from clipkit.data import CaptionDataModule, ColorJitter, Flip, Place, RandomResizedCrop, unpack_skips
from clipkit.data.hashes import concept_ids
from clipkit.types import ArgumentError

ROWS = 41


def batches(loader) -> list:
    return [[*batch[:5], dict(sorted(batch.extra.items()))] for batch in loader]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        all(torch.equal(x, y) for x, y in zip(one[:5], other[:5], strict=True))
        and list(one[5]) == list(other[5])
        and all(torch.equal(one[5][name], other[5][name]) for name in one[5])
        for one, other in zip(a, b, strict=True)
    )


AUGMENTED = {"transforms": [RandomResizedCrop((0.5, 1.0)), Flip(), ColorJitter()], "extra": ["size"], "concept": "kind"}


def test_decode_is_checked_at_once(folder, make):
    with pytest.raises(ArgumentError, match="decode: 'quick' is not one of"):
        make(folder, decode="quick")
    assert not make(folder, decode="reference").train_dataloader().dataset.maker.prepare.arrays
    assert make(folder).train_dataloader().dataset.maker.prepare.arrays


def test_workers_and_their_rngs_change_nothing(folder, make):
    expected = batches(make(folder, **AUGMENTED).train_dataloader())
    np.random.seed(7)
    torch.manual_seed(7)
    os.environ["PL_SEED_WORKERS"] = "1"
    try:
        for workers in (0, 1, 2):
            loader = make(folder, **AUGMENTED, workers=workers).train_dataloader()
            assert same(batches(loader), expected)
            assert same(batches(loader), expected)  # with workers that persist
    finally:
        del os.environ["PL_SEED_WORKERS"]
    assert len(expected) == 6
    assert not same(batches(make(folder, **AUGMENTED, seed=1).train_dataloader()), expected)


@pytest.mark.nightly
def test_workers_that_are_spawned_make_the_same(folder, make):
    loader = make(folder, **AUGMENTED, workers=1, batch_size=20).train_dataloader()
    loader.multiprocessing_context = "spawn"
    iterator = iter(loader)
    made = [[*batch[:5], batch.extra] for batch in [next(iterator)]]
    expected = batches(make(folder, **AUGMENTED, batch_size=20).train_dataloader())[:1]
    assert same([[*made[0][:5], dict(sorted(made[0][5].items()))]], expected)
    loader._iterator._shutdown_workers()


def as_rank(monkeypatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(module, "rank", lambda: rank)
    monkeypatch.setattr(module, "world_size", lambda: world_size)


@pytest.mark.parametrize("distinct", [False, True])
def test_ranks_share_the_global_batches(folder, monkeypatch, distinct, make):
    options = {**AUGMENTED, "distinct_concepts": distinct}
    whole = batches(make(folder, **options).train_dataloader())
    shares = []
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        shares.append(batches(make(folder, **options, batch_size=3).train_dataloader()))
    assert len(whole) == len(shares[0]) == len(shares[1])
    for one, first, second in zip(whole, *shares, strict=True):
        for i in (0, 3, 4):  # images, concepts, positions: texts may be padded differently
            assert torch.equal(one[i], torch.cat([first[i], second[i]]))
        assert one[2].sum() == first[2].sum() + second[2].sum()


def test_distinct_concepts(folder, make):
    data = make(folder, concept="kind", distinct_concepts=True)
    seen = Counter()
    loader = data.train_dataloader()
    for batch in loader:
        assert len(set(batch.concept.tolist())) == 6
        seen.update(batch.position.tolist())
    assert len(loader) == ROWS // 6
    assert len(seen) == 36
    assert same(batches(loader), batches(make(folder, concept="kind", distinct_concepts=True).train_dataloader()))


def test_distinct_concepts_of_the_emoji_set():
    data = CaptionDataModule("emoji", batch_size=256, workers=0, concept="concept", distinct_concepts=True)
    concepts = concept_ids(data.train_rows, "concept")
    order = data.training.batches.order(3).reshape(-1, 256)
    assert len(order) == len(data.training.batches) == 7767 // 256  # less than a batch is lost
    assert all(len(set(concepts[rows].tolist())) == 256 for rows in order)


def test_epochs_differ(folder, make):
    loader = make(folder, extra=["size"]).train_dataloader()
    epochs = []
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        epochs.append([value for batch in loader for value in batch.extra["size"].tolist()])
        assert len(set(epochs[-1])) == 36
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_languages_columns_and_templates(folder, make):
    options = {"language_column": "languages", "languages": ["de"], "templates": ["{}", "photo of {}"]}
    data = make(folder, caption={"captions": 3.0, "tags": 1.0}, **options)
    tokenizer = data.train_dataloader().collate_fn.tokenizer
    words = Counter()
    for epoch in range(20):
        data.training.place = Place(epoch)
        for batch in data.train_dataloader():
            texts = [
                tokenizer.decode(tokens[mask].tolist()) for tokens, mask in zip(batch.tokens, batch.mask, strict=True)
            ]
            words.update("photo" if "photo" in text else "bare" for text in texts)
            words.update("tag" if text.split()[-1] == "x" else "ein" if "ein" in text else "en" for text in texts)
    assert words["en"] == 0
    assert abs(words["photo"] - words["bare"]) < 120  # of 720
    assert 80 < words["tag"] < 165  # a quarter, of the two thirds of the rows that have tags


def test_rows_without_a_caption_are_left_out(tmp_path, make, columns):
    made = columns(range(10))
    made["captions"][3:5] = [[], None]
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    with pytest.warns(UserWarning, match="2 of 10 rows have no caption; each is left out and counted"):
        data = make(tmp_path / "rows.parquet", batch_size=5, val_fraction=0.0)
    batches = list(data.train_dataloader())
    first = [unpack_skips(row[None])[0] for batch in batches for row in batch.extra["skipped"] if row.any()]
    assert {(one.key, one.reason) for one in first} == {("row 3", "no_caption"), ("row 4", "no_caption")}
    assert {row for batch in batches for row in batch.concept.tolist()} == {0, 1, 2, 5, 6, 7, 8, 9}
    made["captions"] = [[]] * 9 + [[" "]]
    pq.write_table(pa.table(made), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="caption: no row has a caption in captions"):
        make(tmp_path / "none.parquet")


@pytest.mark.filterwarnings("ignore:.*have no caption")
def test_rows_without_a_caption_are_no_part_of_validation(tmp_path, folder, make, columns):
    made = columns(range(100, 110))
    made["captions"][3:5] = [[], None]
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    told = {("the validation rows", "row 3", "no_caption"), ("the validation rows", "row 4", "no_caption")}
    data = make(folder, val=str(tmp_path / "rows.parquet"))
    assert len(data.val_rows) == 8 and {one[:3] for one in data.val_left_out} == told
    held = make(tmp_path / "rows.parquet", val_fraction=0.4, batch_size=2)
    assert all(held.val_rows["captions"][:])
    assert len(held.train_rows) + len(held.val_rows) + len(held.val_left_out) == 10


def test_captions_in_other_languages_alone_are_passed_over(tmp_path, make, columns):
    """They were not asked for, as by a filter; what has none at all is counted."""
    made = columns(range(10))
    made["captions"][3:5] = [["ein 3"], []]
    made["languages"][3:5] = [["de"], []]
    pq.write_table(pa.table(made), tmp_path / "rows.parquet")
    options = {"language_column": "languages", "languages": ["en"], "batch_size": 9}
    with pytest.warns(UserWarning, match="have no caption") as told:
        data = make(tmp_path / "rows.parquet", **options)
    assert [str(one.message) for one in told] == [
        "1 of 10 rows have no caption; each is left out and counted",
        "1 of 10 rows have no caption in en and are passed over",
    ]
    assert len(data.train_rows) == 9 and ["ein 3"] not in data.train_rows["captions"][:]


def test_validation_of_the_same_folder(folder, make):
    data = make(folder, val=str(folder), extra=["size"])
    assert (len(data.train_rows), len(data.val_rows)) == (ROWS, 9)
    loader = data.val_dataloader()
    made = list(loader)
    assert [len(batch.image) for batch in made] == [6, 3]
    assert torch.cat([batch.position for batch in made]).tolist() == list(range(9))
    assert torch.cat([batch.extra["size"] for batch in made]).tolist() == [i / 4 for i in range(100, 109)]
    assert same(batches(loader), batches(make(folder, val=str(folder), extra=["size"], workers=2).val_dataloader()))
    assert make(folder, val=f"{folder}:validation").val_rows["size"] == data.val_rows["size"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_is_shared_by_whole_batches(folder, monkeypatch, world_size, make):
    dealt = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        dealt.append(
            [batch.position.tolist() for batch in make(folder, val=str(folder), batch_size=2).val_dataloader()]
        )
    if world_size == 1:
        assert dealt == [[[0, 1], [2, 3], [4, 5], [6, 7], [8]]]
    assert len({len(share) for share in dealt}) == 1  # as often on each rank, and as many: objectives gather
    if world_size > 1:
        assert {len(batch) for share in dealt for batch in share} == {2}
    in_turn = [row for turn in zip(*dealt, strict=True) for batch in turn for row in batch]
    assert in_turn[:9] == list(range(9))
    assert in_turn[9:] == list(range(len(in_turn) - 9))


def test_a_fraction_held_out(folder, make):
    assert make(folder).val_dataloader() == []
    data = make(folder, val_fraction=0.3)
    assert len(data.train_rows) + len(data.val_rows) == ROWS
    assert 4 < len(data.val_rows) < 22
    assert not set(data.train_rows["size"]) & set(data.val_rows["size"])
    assert make(folder, val_fraction=0.3, seed=5).val_rows["size"] == data.val_rows["size"]


def test_it_asks_the_model_what_to_make(folder, spec):
    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(1, 1)
            self.model.inputs = spec._replace(image_size=(5, 7))
            self.shapes = []

        def training_step(self, batch, batch_idx):
            self.shapes.append(tuple(batch.image.shape))
            return self.model(torch.ones(1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    task, data = Task(), CaptionDataModule(str(folder), batch_size=6, workers=0)
    with pytest.raises(RuntimeError, match=r"set `.inputs = model.inputs`"):
        data.train_dataloader()
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(accelerator="cpu", max_steps=2, **options).fit(task, datamodule=data)
    assert task.shapes == [(6, 3, 5, 7)] * 2


def test_iterators_begin_where_the_place_is_when_they_are_used(folder, make):
    for workers in (0, 1):
        data = make(folder, workers=workers)
        iterator = iter(data.train_dataloader())  # Lightning makes it before it restores
        data.load_state_dict({**data.state_dict(), "epoch": 2, "position": 12})
        assert next(iterator).position.tolist() == list(range(12, 18))


def test_state(folder, make):
    data = make(folder)
    data.train_dataloader()
    data.advance(2)
    state = data.state_dict()
    assert (state["epoch"], state["position"], data.position) == (0, 12, 12)
    assert torch.load(io.BytesIO(saved(state)), weights_only=True) == state
    other = make(folder)
    other.load_state_dict(state)
    assert other.training.place == (0, 12)
    other.advance(1)
    assert other.training.place == (0, 18)
    with pytest.raises(ArgumentError, match="takes 5 samples x 1, but 6 x 1 in the checkpoint; 6 with"):
        make(folder, batch_size=5).load_state_dict(state)
    changed = make(folder, seed=2, val_fraction=0.2)
    with pytest.warns(UserWarning, match=r"within an epoch of other data \(data, seed differs\)"):
        changed.load_state_dict(state)
    assert changed.training.place == (0, 0)
    with pytest.warns(UserWarning, match="distinct_concepts differs"):
        make(folder, concept="kind", distinct_concepts=True).load_state_dict(state)


def saved(state) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_data_of_another_kind(folder, columns, spec):
    class Numbers(CaptionDataModule):
        def read(self, source, split, image):
            count = int(source) if split == "train" else 3
            rows = Dataset.from_dict({**columns(range(count)), "text": ["a"] * count})
            return rows.cast_column("image", datasets.Image())

    data = Numbers("12", val="12", batch_size=4, workers=0)
    data.inputs = spec
    assert (len(data.train_rows), len(data.val_rows)) == (12, 3)
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 8, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_from_yaml(folder, spec):
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    data = {
        "train": str(folder),
        "val": str(folder),
        "batch_size": 4,
        "caption": {"captions": 2, "tags": 0.5},
        "language_column": "languages",
        "languages": ["en"],
        "templates": ["{}", "a {}"],
        "concept": "kind",
        "distinct_concepts": True,
        "transforms": [{"class_path": "clipkit.data.RandomResizedCrop", "init_args": {"scale": [0.5, 1.0]}}],
        "extra": ["size"],
    }
    text = json.dumps({"data": {"class_path": "clipkit.data.CaptionDataModule", "init_args": data}})
    made = parser.instantiate_classes(parser.parse_string(text)).data
    assert isinstance(made, CaptionDataModule)
    assert made.training.recipe.choice.columns == {"captions": 2.0, "tags": 0.5}
    assert isinstance(made.training.recipe.transforms[0], RandomResizedCrop)
    made.inputs = spec
    assert next(iter(made.train_dataloader())).image.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(("device", "pad"), [("cpu", "longest"), ("cuda", "multiple_of_8")])
def test_a_gpu_sees_lengths_in_multiples_of_8(folder, make, device, pad):
    data = make(folder, templates=["one two three four five {}"])
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)), overfit_batches=0, accumulate_grad_batches=1
    )
    data.inputs = data.inputs._replace(context_length=20)
    lengths = {batch.tokens.shape[1] for batch in data.train_dataloader()}
    assert max(lengths) < 20 and all((length % 8 == 0) == (pad == "multiple_of_8") for length in lengths)
    data.inputs = data.inputs._replace(pad="max_length")  # which nothing may change
    assert {batch.tokens.shape[1] for batch in data.train_dataloader()} == {data.inputs.context_length}
