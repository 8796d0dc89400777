"""Which modules are gathered at a time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clipkit.tasks.sharding import blocks, shard
from clipkit.towers import ClipTextTower, HuggingFaceTower, TimmTower
from clipkit.types import ArgumentError

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16, "max_position_embeddings": 32}


def kinds(model):
    return [type(module).__name__ for module in blocks(model)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: TimmTower("test_vit", image_size=32), ["Block"] * 6),
        (lambda: TimmTower("resnet10t", image_size=32), ["BasicBlock"] * 4),
        (lambda: HuggingFaceTower(config=BERT, tokenizer="emoji", context_length=16), ["BertLayer"] * 3),
        (lambda: ClipTextTower(width=16, layers=2, heads=2), ["TransformerBlock"] * 2),
    ],
    ids=["vit", "resnet", "bert", "clip_text"],
)
def test_the_libraries_own_blocks(make, expected):
    assert kinds(make()) == expected


def test_blocks_within_stages_come_first():
    model = TimmTower("test_convnext", image_size=32)
    found = blocks(model)
    names = {module: name for name, module in model.named_modules()}
    assert {"ConvNeXtBlock", "ConvNeXtStage"} == set(kinds(model))
    for later, module in enumerate(found):
        assert not any(names[inner].startswith(f"{names[module]}.") for inner in found[later:])


def test_leaves_are_no_blocks():
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))) == []


def mesh_of(size):
    return {"data_parallel": SimpleNamespace(size=lambda: size)}


def test_a_mesh_that_splits_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("clipkit.tasks.sharding.world_size", lambda: 2)
    with pytest.raises(ArgumentError, match=r"shared? .*out to 1 of 2 devices.*clipkit\.strategies\.FSDP2") as caught:
        shard(nn.Linear(2, 2), mesh_of(1))
    assert caught.value.argument == "trainer.strategy"


def test_what_cannot_be_shared_out_is_named():
    model = nn.Linear(2, 2)
    model.gain = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="gain has no dimension"):
        shard(model, mesh_of(1))


def test_a_module_of_no_parameters_is_left_alone():
    shard(nn.ReLU(), mesh_of(1))
