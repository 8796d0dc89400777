"""Blocks that are computed again: the same gradients, less memory, and no word of it in a file."""

from __future__ import annotations

import pytest
import torch

from clipkit.benchmarking import peak_memory
from clipkit.models import describe, load, save
from clipkit.towers import ClipTextTower, HuggingFaceTower, SiglipTextTower, TimmTower
from clipkit.types import ArgumentError

BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
BERT |= {"intermediate_size": 128, "max_position_embeddings": 32, "hidden_dropout_prob": 0.2}
SIZES = {"width": 32, "layers": 6, "heads": 2, "context_length": 16}
TOWERS = {
    "vit": lambda **more: TimmTower("vit_tiny_patch16_224", image_size=96, timm_kwargs={"proj_drop_rate": 0.2}, **more),
    "resnet": lambda **more: TimmTower("resnet10t", image_size=64, **more),
    "convnext": lambda **more: TimmTower("convnext_atto", image_size=64, **more),
    "bert": lambda **more: HuggingFaceTower(config=BERT, tokenizer="emoji", context_length=16, **more),
    "clip": lambda **more: ClipTextTower(**SIZES, **more),
    "siglip": lambda **more: SiglipTextTower(**SIZES, **more),
}


def made(name, **more):
    torch.manual_seed(0)
    return TOWERS[name](**more).train()


def inputs(tower):
    generator = torch.Generator().manual_seed(0)
    if isinstance(tower, TimmTower):
        return (torch.randint(0, 256, (16, 3, *tower.image_size), dtype=torch.uint8, generator=generator),)
    return torch.randint(3, 8192, (16, 16), generator=generator), torch.ones(16, 16, dtype=torch.bool)


def gradients(tower):
    torch.manual_seed(1)  # dropout
    tower(*inputs(tower)).pooled.square().sum().backward()
    return {name: p.grad for name, p in tower.named_parameters()}


@pytest.mark.parametrize("name", TOWERS)
def test_the_same_gradients(name):
    plain, again = gradients(made(name)), gradients(made(name, gradient_checkpointing=True))
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", TOWERS)
def test_less_memory(name):
    def peak(tower):
        return peak_memory(lambda: gradients(tower) and tower.zero_grad())

    held = sum(p.numel() * p.element_size() for p in made(name).parameters())  # the gradients, either way
    share = (peak(made(name, gradient_checkpointing=True)) - held) / (peak(made(name)) - held)
    assert share < (0.9 if name == "resnet" else 0.75)  # its stages have one block each


@pytest.mark.parametrize("name", ["vit", "bert", "clip", "siglip"])
def test_a_file_says_nothing_of_it(name, tmp_path):
    tower = made(name, gradient_checkpointing=True)
    assert describe(tower) == describe(made(name))
    save(tower, tmp_path / "tower.clip")
    other = load(tmp_path / "tower.clip")
    with torch.no_grad():
        assert torch.equal(other(*inputs(other)).pooled, tower.eval()(*inputs(tower)).pooled)


@pytest.mark.parametrize("name", ["bert", "clip", "vit"])
def test_a_frozen_tower_is_not_gone_through_backwards(name):
    tower = made(name, gradient_checkpointing=True).requires_grad_(False)
    assert not tower(*inputs(tower)).pooled.requires_grad


def test_what_cannot_is_refused_at_construction():
    with pytest.raises(ArgumentError, match=r"gradient_checkpointing: timm's pit_ti_224 cannot compute blocks again"):
        TimmTower("pit_ti_224", gradient_checkpointing=True)
    flaubert = {"model_type": "flaubert", "emb_dim": 16, "n_layers": 1, "n_heads": 2}
    with pytest.raises(ArgumentError, match="gradient_checkpointing: a flaubert cannot compute blocks again"):
        HuggingFaceTower(config=flaubert, tokenizer="emoji", context_length=16, gradient_checkpointing=True)
