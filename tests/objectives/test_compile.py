"""Objectives in compiled steps: one graph with the same result, and large batches still in little memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from clipkit.functional import strips
from clipkit.objectives import InfoNCE, Sigmoid
from clipkit.types import Embeddings, ImageTextBatch

OBJECTIVES = pytest.mark.parametrize("make", [InfoNCE, Sigmoid])


def found(run, rows, *, seed=0, autocast=False):
    """Loss and gradients of so many random pairs, of which two and two are of one concept."""
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(rows, 8, generator=generator), dim=-1).requires_grad_() for _ in range(2))
    outputs = Embeddings(image, text, torch.tensor(9.0).requires_grad_(), torch.tensor(-9.0).requires_grad_())
    ids = torch.arange(rows)
    batch = ImageTextBatch(torch.zeros(rows, 1), ids[:, None], ids[:, None] > -1, ids, ids // 2, {})
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # the backward pass is outside, as Lightning has it
        loss = run(outputs, batch).loss
    return [loss.detach(), *torch.autograd.grad(loss, outputs, materialize_grads=True)]


def compiled(objective, graphs=None):
    """As ``compile: true`` has it, but in one graph where none are counted, and in seconds."""
    torch.compiler.reset()
    if graphs is None:
        return torch.compile(objective, backend="aot_eager", fullgraph=True)
    return torch.compile(objective, backend=lambda graph, _: graphs.append(graph) or graph.forward)


@OBJECTIVES
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("several", [False, True], ids=["one strip", "several"])
def test_one_graph_gives_the_same(make, several, autocast, monkeypatch):
    if several:
        monkeypatch.setattr(strips, "STRIP", 5 * 13)  # 13 rows are 5, 5 and 3
    mine, expected = (found(run, 13, autocast=autocast) for run in (compiled(make()), make()))
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize("tile", [None, 5], ids=["by itself", "as told"])
def test_a_large_batch_stays_out_of_the_graph(make, tile, monkeypatch):
    """A graph would hold all strips at a time."""
    monkeypatch.setattr(strips, "COMPILED", 13 * 13 - (tile is None))
    graphs = []
    torch.testing.assert_close(found(compiled(make(tile=tile), graphs), 13), found(make(tile=tile), 13))
    assert graphs and "autograd_function" not in "".join(graph.code for graph in graphs)


@OBJECTIVES
def test_two_ranks_ask_one_another_within_the_graph(make, on_ranks):
    def work(rank, world):
        return found(compiled(make()), 6, seed=rank), found(make(), 6, seed=rank)

    for mine, expected in on_ranks(work):
        torch.testing.assert_close(mine, expected)
