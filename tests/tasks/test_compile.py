"""Towers of others in one compiled graph, with the results that they have without."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.towers import ClipTextTower, HuggingFaceTower, TimmTower

BERT = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16} | {
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
DISTILLED = {"model_type": "distilbert", "dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 2} | {
    "dropout": 0,
    "attention_dropout": 0,
}


@pytest.mark.parametrize("masked", [False, True], ids=["clip", "bert"])
def test_lengths_in_multiples_of_8_are_compiled_twice_at_most(make_batch, masked):
    """Once for the first, and once for any other."""
    config = {**BERT, "num_hidden_layers": 1, "vocab_size": 8192}
    clip = ClipTextTower(width=16, layers=1, heads=2)
    text = HuggingFaceTower(tokenizer="emoji", config=config, context_length=77) if masked else clip
    model = DualEncoder(TimmTower("test_vit", image_size=32), text, partial(ContrastiveHead, embed_dim=8))
    graphs, batch = [], make_batch(4)
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    torch.compiler.reset()
    for length in (*range(8, 77, 8), 77):
        tokens, mask = (nn.functional.pad(ids, (0, length - 8)) for ids in (batch.tokens, batch.mask))
        outputs = compiled(batch._replace(tokens=tokens, mask=mask))
        InfoNCE()(outputs, batch).loss.backward()
    assert len(graphs) <= 2


@pytest.mark.nightly  # half a minute of tracing
@pytest.mark.parametrize(
    ("vision", "text", "pool"),
    [
        ({"name": "test_resnet"}, {**BERT, "num_hidden_layers": 2}, "mean"),
        ({"name": "test_convnext"}, DISTILLED, "first"),
        ({"name": "test_vit", "patch_drop": 0.5}, {**BERT, "num_hidden_layers": 1}, "first"),
    ],
    ids=["resnet and bert", "convnext and distilbert", "patch dropout"],
)
def test_there_is_no_graph_break(make_batch, vision, text, pool):
    torch.manual_seed(0)
    config = {**text, "vocab_size": 8192}
    tower = HuggingFaceTower(tokenizer="emoji", config=config, pool=pool, context_length=12)
    model = DualEncoder(TimmTower(image_size=32, **vision), tower, partial(ContrastiveHead, embed_dim=8)).train()
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(5)  # for the patches that are dropped
        batch = make_batch(4)
        outputs = run(batch)
        InfoNCE()(outputs, batch).loss.backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append([outputs.image, outputs.text, *found])
        model.zero_grad()
    assert len(results[0]) > 20
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
