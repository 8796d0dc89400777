"""The losses strip by strip against the same at once and open_clip's, in value, gradients, memory and operations."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from clipkit.benchmarking import peak_memory
from clipkit.functional import info_nce, info_nce_rows, sigmoid_loss, sigmoid_loss_rows
from clipkit.objectives import InfoNCE, Sigmoid
from clipkit.types import ArgumentError

CONCEPTS = torch.tensor([3, 1, 3, 2, 1, 3, 9, 4, 5, 6, 3, 2, 8])
LOSSES = {
    "info_nce": (lambda i, t, s, b, **k: info_nce(i, t, s, **k), lambda i, t, s, b: ClipLoss()(i, t, s)),
    "sigmoid": (sigmoid_loss, SigLipLoss()),
}


@pytest.fixture(params=LOSSES)
def both(request):
    """The loss and open_clip's, each of image, text, scale and bias."""
    return LOSSES[request.param]


def make_leaves(rows=13, width=5, scale=2.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    leaves = image, text, torch.tensor([scale], dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)
    return tuple(leaf.to(dtype).requires_grad_() for leaf in leaves)


def found(loss, leaves, **options):
    """Value and gradients, the bias's only where there is one."""
    image, text, scale, bias = leaves
    value = loss(normalize(image, dim=-1), normalize(text, dim=-1), scale.exp(), bias, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)]


def assert_equal(mine, theirs, tolerance=1e-10):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tile", [1, 5, 13, 100])
def test_equals_open_clip(both, tile):
    ours, theirs = both
    assert_equal(found(ours, make_leaves(), tile=tile), found(theirs, make_leaves()))


@pytest.mark.parametrize("concept", [CONCEPTS, torch.arange(13), torch.zeros(13).long(), CONCEPTS - 2**40])
@pytest.mark.parametrize("tile", [5, 13])
def test_equals_the_loss_at_once_with_several_positives(both, tile, concept):
    leaves = make_leaves()
    assert_equal(found(both[0], leaves, tile=tile, concept=concept), found(both[0], leaves, concept=concept))


@pytest.mark.parametrize("concept", [None, CONCEPTS])
def test_gradcheck_with_a_tile_that_does_not_divide_the_batch(both, concept):
    assert torch.autograd.gradcheck(
        lambda i, t, s, b: both[0](i, t, s.exp(), b, concept=concept, tile=5), make_leaves()
    )


@pytest.mark.parametrize("concept", [None, torch.arange(3000)])
def test_a_large_batch_goes_in_strips_by_itself(both, concept):
    ours, theirs = both
    leaves = make_leaves(3000, 8, dtype=torch.float32)
    calls = FlopCounterMode(display=False)
    with calls:
        mine = found(ours, leaves, concept=concept)
    assert_equal(mine, found(theirs, leaves), 1e-5)
    assert calls.get_total_flops() == (8 if theirs.__class__ is not SigLipLoss else 6) * 3000**2 * 8


def test_a_small_batch_is_made_at_once(both):
    ours, _ = both
    leaves = make_leaves(64, 8, dtype=torch.float32)
    calls = FlopCounterMode(display=False)
    with calls:
        found(ours, leaves)
    assert calls.get_total_flops() == 6 * 64**2 * 8


@pytest.mark.parametrize("frozen", ["image", "text", "both"])
def test_a_frozen_side_costs_nothing_and_changes_nothing(both, frozen):
    every, fewer = make_leaves(), make_leaves()
    for leaf, name in zip(fewer, ("image", "text"), strict=False):
        leaf.requires_grad_(frozen not in (name, "both"))
    wanted = [leaf for leaf in fewer if leaf.requires_grad]

    def gradients(leaves, wanted):
        return torch.autograd.grad(both[0](leaves[0], leaves[1], *leaves[2:], tile=4), wanted, materialize_grads=True)

    mine = gradients(fewer, wanted)
    theirs = gradients(every, every)
    kept = [theirs[i] for i, leaf in enumerate(fewer) if leaf.requires_grad]
    assert_equal(mine, kept)


@pytest.mark.parametrize("tile", [None, 1])
@pytest.mark.parametrize("concept", [None, torch.zeros(1).long()])
def test_one_pair_alone(both, tile, concept):
    ours, theirs = both
    assert_equal(found(ours, make_leaves(1), tile=tile, concept=concept), found(theirs, make_leaves(1)))


@pytest.mark.parametrize("tile", [None, 7])
def test_a_large_scale(both, tile):
    """Scale 100, the field's clamp, on rows that match and rows that nearly match one another."""
    ours, theirs = both
    image, text, _, bias = make_leaves(64, 16, dtype=torch.float32)
    near = (image.detach() + 1e-3 * text.detach()).requires_grad_()
    image.data[1::2] = image.data[::2] + 1e-4  # near duplicates
    leaves = image, near, torch.tensor([4.60517], requires_grad=True), bias
    exact = found(theirs, tuple(leaf.detach().double().requires_grad_() for leaf in leaves))
    mine = found(ours, leaves, tile=tile)
    for a, b in zip(mine, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("tile", [None, 5])
def test_a_saturated_batch_keeps_its_small_gradients(tile):
    """Where each pair is all but certain, 1 - p is rounding; the sum of what the others take is not."""
    image = torch.eye(16).requires_grad_()
    text = torch.eye(16).requires_grad_()
    scale = torch.tensor(30.0)

    def gradients(loss, *leaves, **options):
        value = loss(*leaves, scale.to(leaves[0].dtype), **options)
        return value.detach(), *torch.autograd.grad(value, leaves)

    exact = gradients(ClipLoss(), *(leaf.detach().double().requires_grad_() for leaf in (image, text)))
    for options in ({}, {"concept": torch.arange(16)}):
        mine = gradients(info_nce, image, text, tile=tile, **options)
        for a, b in zip(mine, exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=0)
    naive = gradients(ClipLoss(), image, text)
    assert not torch.allclose(naive[0].double(), exact[0], rtol=1e-3, atol=0)  # and so it is worth the care


@pytest.mark.parametrize("tile", [None, 10])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_the_naive_loss(both, dtype, tile):
    ours, theirs = both
    leaves = make_leaves(96, 32, dtype=torch.float32)
    image, text = (normalize(leaf, dim=-1).detach().to(dtype) for leaf in leaves[:2])
    scale, bias = torch.tensor(20.0), torch.tensor(-3.0)

    def measured(loss, dtype, **options):
        own = [x.to(dtype).requires_grad_() for x in (image, text)]
        value = loss(*own, scale.to(dtype), bias.to(dtype), **options)
        return [value.detach().double(), *(g.double() for g in torch.autograd.grad(value, own))]

    exact, naive = measured(theirs, torch.float64), measured(theirs, dtype)
    mine = measured(ours, dtype, tile=tile)
    for a, b, right in zip(mine, naive, exact, strict=True):
        assert float((a - right).norm()) <= float((b - right).norm())


@pytest.mark.parametrize("tile", [None, 5])
def test_autocast_does_not_reach_the_similarities(both, tile):
    leaves = make_leaves(dtype=torch.float32)
    found = []
    for inside in (False, True):
        image, text, *rest = leaves
        image, text = normalize(image, dim=-1), normalize(text, dim=-1)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            value = both[0](image, text, *rest, tile=tile, concept=CONCEPTS)
        gradients = torch.autograd.grad(value, leaves, materialize_grads=True)  # outside, as Lightning has it
        found.append([value.detach(), *gradients])
    assert_equal(*found, 0)


@pytest.mark.parametrize("concept", [None, torch.tensor([1, 2, 1, 3, 2, 1])])
@pytest.mark.parametrize("rows", [info_nce_rows, sigmoid_loss_rows])
def test_a_query_block_against_gathered_keys(rows, concept):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    scale, parts = torch.tensor(3.0), (slice(0, 3), slice(3, 6))
    columns = (scale * image @ text.T).fill_diagonal_(-torch.inf).logsumexp(0)  # what joining both would give

    def share(part, **more):
        extra = {"join": more.get("join")} if rows is info_nce_rows else {"logit_bias": torch.tensor(-1.0)}
        given = {"concept": None if concept is None else concept[part], "all_concepts": concept}
        return rows(image[part], text, scale, offset=part.start, tile=more["tile"], **given, **extra)

    whole = {"logit_bias": torch.tensor(-1.0)} if rows is sigmoid_loss_rows else {}
    at_once = rows(image, text, scale, concept=concept, all_concepts=concept, **whole)
    shares = [share(part, tile=2, join=lambda _: columns) for part in parts]
    torch.testing.assert_close(torch.stack(shares).mean(), at_once)


@pytest.mark.parametrize("rows", [info_nce_rows, sigmoid_loss_rows])
@pytest.mark.parametrize("missing", ["concept", "all_concepts"])
def test_ids_of_one_side_alone_are_refused(rows, missing):
    x, one = torch.ones(2, 3), torch.ones(())
    ids = {"concept": torch.arange(2), "all_concepts": torch.arange(2), missing: None}
    bias = {"logit_bias": one} if rows is sigmoid_loss_rows else {}
    with pytest.raises(ArgumentError, match=f"^{missing}: give the ids of images and of texts, or neither"):
        rows(x, x, one, **bias, **ids)


def test_memory_grows_with_the_batch_and_not_its_square(both):
    def peak(rows):
        leaves = make_leaves(rows, 64, dtype=torch.float32)
        return peak_memory(lambda: found(both[0], leaves, tile=2**20 // rows))

    assert peak(4096) / peak(1024) < 4.3


def test_memory_is_a_small_share_of_open_clips(both):
    ours, theirs = both
    leaves = make_leaves(2048, 16, dtype=torch.float32)
    mine, naive = (
        peak_memory(lambda loss=loss: found(loss, leaves)) for loss in (lambda *a: ours(*a, tile=32), theirs)
    )
    assert naive > 15 * mine


@pytest.mark.parametrize("tile", [0, -3])
def test_a_tile_of_no_rows_is_refused(both, tile):
    with pytest.raises(ArgumentError, match=f"tile: {tile} is not at least 1 row"):
        found(both[0], make_leaves(), tile=tile)
    for objective in (InfoNCE, Sigmoid):
        with pytest.raises(ArgumentError, match="tile: "):
            objective(tile=tile)
