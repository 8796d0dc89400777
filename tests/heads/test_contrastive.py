"""The head: projections, temperature, clamp."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from clipkit.heads import ContrastiveHead
from clipkit.types import ArgumentError, Features


def features(width, rows=3):
    return Features(torch.randn(rows, width, generator=torch.Generator().manual_seed(width)))


def test_shapes_norms_and_the_start_of_the_temperature():
    out = ContrastiveHead(6, 5, embed_dim=4)(features(6), features(5))
    assert out.image.shape == out.text.shape == (3, 4)
    for x in (out.image, out.text):
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(3))
    assert out.logit_scale.shape == (1,)  # FSDP refuses 0-D parameters
    assert float(out.logit_scale.detach()) == pytest.approx(1 / 0.07)
    assert out.logit_bias is None


def test_the_default_is_a_projection_without_bias():
    torch.manual_seed(0)
    head = ContrastiveHead(600, 500, embed_dim=400)
    assert sorted(name for name, _ in head.named_parameters()) == ["image.weight", "logit_scale", "text.weight"]
    assert float(head.image.weight.std()) == pytest.approx(600**-0.5, rel=0.02)
    assert float(head.text.weight.std()) == pytest.approx(500**-0.5, rel=0.02)


def test_each_side_has_its_own_projection():
    head = ContrastiveHead(6, 4, embed_dim=4, image="mlp", text="none", normalize=False)
    assert [type(layer) for layer in head.image] == [nn.Linear, nn.ReLU, nn.Linear]
    x = features(4)
    assert torch.equal(head(features(6), x).text, x.pooled)
    assert ContrastiveHead(6, 4, 4, image="linear_bias").image.bias is not None


@pytest.mark.parametrize(("side", "widths"), [("image", (6, 4)), ("text", (4, 6))])
def test_no_projection_needs_equal_widths(side, widths):
    with pytest.raises(ArgumentError, match=f"{side}: `none` needs embed_dim 4 to equal the tower's width 6"):
        ContrastiveHead(*widths, embed_dim=4, image="none", text="none")


def test_an_unknown_projection_is_refused():
    with pytest.raises(ArgumentError, match="text: 'lineal' is not one of none, linear, linear_bias, mlp"):
        ContrastiveHead(4, 4, 4, text="lineal")


def test_siglips_bias():
    head = ContrastiveHead(4, 4, 4, init_logit_scale=math.log(10), init_logit_bias=-10)
    out = head(features(4), features(4))
    assert float(out.logit_scale.detach()) == pytest.approx(10)
    assert out.logit_bias is head.logit_bias and head.logit_bias.shape == (1,) and float(head.logit_bias) == -10


def test_a_fixed_temperature():
    head = ContrastiveHead(4, 4, 4, learn_scale=False)
    assert not head.logit_scale.requires_grad
    assert "logit_scale" in head.state_dict()


def test_two_heads_do_not_share_a_temperature():
    one, other = ContrastiveHead(4, 4, 4), ContrastiveHead(4, 4, 4)
    with torch.no_grad():
        one.logit_scale.fill_(1.0)
    assert float(other.logit_scale) != 1.0


@pytest.mark.parametrize(("start", "end"), [(5.0, math.log(100)), (4.6, 4.6), (-1.0, -1.0)])
def test_the_clamp(start, end):
    head = ContrastiveHead(4, 4, 4, init_logit_scale=start)
    head.after_optimizer_step(0)
    assert float(head.logit_scale) == pytest.approx(end)


def test_a_clamp_of_ones_own():
    head = ContrastiveHead(4, 4, 4, init_logit_scale=5.0, max_logit_scale=3.0)
    head.after_optimizer_step(0)
    assert float(head.logit_scale) == 3.0


@pytest.mark.parametrize("side", ["image", "text"])
def test_normalising_can_be_asked_for_or_not(side):
    head, x = ContrastiveHead(4, 4, 4), features(4)
    project = getattr(head, f"project_{side}")
    raw = getattr(head, side)(x.pooled)
    assert torch.equal(project(x, normalize=False), raw)
    torch.testing.assert_close(project(x), normalize(raw, dim=-1))
    plain = ContrastiveHead(4, 4, 4, normalize=False)
    torch.testing.assert_close(getattr(plain, f"project_{side}")(x, normalize=True).norm(dim=-1), torch.ones(3))


def test_unit_length_in_fp32_under_autocast():
    head, x = ContrastiveHead(64, 64, 64), features(64)
    with torch.autocast("cpu", torch.bfloat16):
        out = head(x, x)
    assert out.image.dtype == out.text.dtype == torch.float32
    torch.testing.assert_close(out.image.norm(dim=-1), torch.ones(3))
    assert head.double()(Features(x.pooled.double()), Features(x.pooled.double())).image.dtype == torch.float64


def test_every_parameter_gets_a_gradient():
    head = ContrastiveHead(6, 5, 4, image="mlp", text="linear_bias", init_logit_bias=0.0)
    out = head(features(6), features(5))
    (out.logit_scale * (out.image * out.text).sum() + out.logit_bias).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
