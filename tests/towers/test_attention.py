"""Every tower attends by PyTorch's own function; a causal one without a mask, which keeps the fast kernels out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from clipkit.towers import ClipTextTower, HuggingFaceTower, SiglipTextTower, TimmTower

LAYERS = 3
SIZES = {"width": 32, "layers": LAYERS, "heads": 2, "context_length": 10}
SMALL = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48}


class Attention(TorchFunctionMode):
    """What each call was told of masks."""

    def __init__(self):
        super().__init__()
        self.told = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            self.told.append((mask is not None, kwargs.get("is_causal", False)))
        return func(*args, **kwargs)


def attended(tower, *inputs):
    with torch.no_grad(), Attention() as calls:
        tower.eval()(*inputs)
    return calls.told


@pytest.fixture
def captions():
    """Ids and mask of two captions, the second one padded."""
    tokens = torch.tensor([[1, 7, 8, 9, 2], [1, 7, 2, 0, 0]])
    return tokens, tokens != 0


def test_the_causal_tower_makes_no_mask(captions):
    assert attended(ClipTextTower(**SIZES), *captions) == [(False, True)] * LAYERS


def test_the_tower_that_sees_all_makes_no_mask(captions):
    tower = SiglipTextTower(**{**SIZES, "context_length": 5})
    assert attended(tower, *captions) == [(False, False)] * LAYERS


def test_timms(captions):
    tower = TimmTower("vit_tiny_patch16_224", image_size=32, timm_kwargs={"depth": LAYERS})
    assert attended(tower, torch.zeros(2, 3, 32, 32, dtype=torch.uint8)) == [(False, False)] * LAYERS


ENCODERS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "modernbert"), SMALL),
    "albert": {**SMALL, "embedding_size": 16},
    "t5": {"d_model": 32, "num_layers": LAYERS, "num_heads": 2, "d_ff": 48, "d_kv": 16},
    "distilbert": {"dim": 32, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 48},
}
CAUSAL = {
    "clip_text_model": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": LAYERS, "n_head": 2},
    "qwen2": {**SMALL, "num_key_value_heads": 1},
}


@pytest.mark.parametrize("family", [*ENCODERS, *CAUSAL])
def test_transformers_by_default(family, captions):
    """Encoders need the mask of padding; what is causal needs none, as padding comes last."""
    config = {"model_type": family, **(ENCODERS | CAUSAL)[family]}
    tower = HuggingFaceTower(config=config, tokenizer="emoji", context_length=10, pool="mean")
    assert attended(tower, *captions) == [(False, True) if family in CAUSAL else (True, False)] * LAYERS
