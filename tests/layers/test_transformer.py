"""The transformer of the CLIP paper against torch's own attention, and its initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from clipkit.layers import QuickGELU, Transformer, TransformerBlock

WIDTH, HEADS = 16, 4


def slow_block(block, x, causal):
    """The block written out, its attention through ``nn.MultiheadAttention``."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    attention.in_proj_weight, attention.in_proj_bias = block.attn.in_proj.weight, block.attn.in_proj.bias
    attention.out_proj = block.attn.out_proj
    mask = torch.full((x.shape[1],) * 2, -math.inf).triu(1) if causal else None
    y = block.ln_1(x)
    x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
    return x + block.c_proj(block.act(block.c_fc(block.ln_2(x))))


@pytest.mark.parametrize("causal", [True, False])
def test_a_block_against_torchs_attention(causal):
    torch.manual_seed(0)
    block, x = TransformerBlock(WIDTH, HEADS, causal=causal), torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(block(x), slow_block(block, x, causal))


@pytest.mark.parametrize("length", [7, 130])
def test_attention_in_bf16_is_near_that_in_fp32(length):
    torch.manual_seed(0)
    block, x = TransformerBlock(WIDTH, HEADS), torch.randn(2, length, WIDTH)
    results = []
    for half in (False, True):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = block(given)
        out.float().square().sum().backward()
        results.append((out.float(), given.grad, block.attn.in_proj.weight.grad.clone()))
        block.zero_grad()
    for exact, near in zip(*results, strict=True):
        assert (exact - near).norm() < 0.02 * exact.norm()


def test_causal_means_that_later_tokens_do_not_matter():
    torch.manual_seed(0)
    model, x = Transformer(WIDTH, 2, HEADS), torch.randn(2, 6, WIDTH)
    torch.testing.assert_close(model(x)[:, :4], model(x[:, :4]))
    free = Transformer(WIDTH, 2, HEADS, causal=False)
    assert not torch.allclose(free(x)[:, :4], free(x[:, :4]))


def test_quick_gelu_is_not_gelu():
    x = torch.linspace(-4, 4, 50)
    torch.testing.assert_close(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))
    assert not torch.allclose(QuickGELU()(x), nn.functional.gelu(x), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "function"),
    [("gelu", nn.functional.gelu), ("gelu_tanh", lambda x: nn.functional.gelu(x, approximate="tanh"))],
)
def test_activations(name, function):
    x = torch.linspace(-4, 4, 50)
    assert torch.equal(TransformerBlock(WIDTH, HEADS, activation=name).act(x), function(x))


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="'relu' is not one of quick_gelu, gelu, gelu_tanh"):
        Transformer(WIDTH, 1, HEADS, activation="relu")


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="16 is not divisible by 3 heads"):
        Transformer(WIDTH, 1, 3)


def test_initial_standard_deviations():
    torch.manual_seed(0)
    width, layers = 256, 6
    into, out = width**-0.5, width**-0.5 * (2 * layers) ** -0.5
    for block in Transformer(width, layers, 4).blocks:
        for layer, std in (
            (block.attn.in_proj, into),
            (block.attn.out_proj, out),
            (block.c_fc, (2 * width) ** -0.5),
            (block.c_proj, out),
        ):
            assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.03)
        assert not block.attn.in_proj.bias.any() and not block.attn.out_proj.bias.any()


def test_eps_reaches_every_norm():
    norms = [m.eps for m in Transformer(WIDTH, 2, HEADS, eps=1e-6).modules() if isinstance(m, nn.LayerNorm)]
    assert norms == [1e-6] * 4
