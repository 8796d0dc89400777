"""The estimate of a step's memory against the measured peak of real steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from clipkit.benchmarking import estimate_memory, peak_memory
from clipkit.data import CaptionDataModule
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE, Objective, Sigmoid
from clipkit.tasks import ContrastiveTask
from clipkit.towers import BagOfWordsTower, ClipTextTower, HuggingFaceTower, TextTower, TimmTower, VisionTower
from clipkit.types import Embeddings, ImageTextBatch

BERT = {
    "model_type": "bert",
    "vocab_size": 8192,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


def resnet_bert() -> tuple[VisionTower, TextTower]:
    return TimmTower("resnet10t", image_size=32), HuggingFaceTower(config=BERT, tokenizer="emoji", context_length=32)


def vit_clip() -> tuple[VisionTower, TextTower]:
    return TimmTower("vit_tiny_patch16_224", image_size=64), ClipTextTower(width=64, layers=2, heads=2)


def convnext_bag() -> tuple[VisionTower, TextTower]:
    return TimmTower("convnext_atto", image_size=64), BagOfWordsTower(64)


CASES: list[tuple[Callable[[], tuple[VisionTower, TextTower]], Objective, int]] = [
    (resnet_bert, InfoNCE(), 128),
    (vit_clip, InfoNCE(), 96),
    (convnext_bag, Sigmoid(), 48),
]


@pytest.mark.parametrize(("towers", "objective", "batch_size"), CASES)
def test_within_15_percent_of_the_measured_peak(
    towers: Callable[[], tuple[VisionTower, TextTower]], objective: Objective, batch_size: int
) -> None:
    bias = -10.0 if isinstance(objective, Sigmoid) else None
    model = DualEncoder(*towers(), partial(ContrastiveHead, embed_dim=64, init_logit_bias=bias))
    task = ContrastiveTask(model, objective)
    data = CaptionDataModule(caption="name", batch_size=batch_size, workers=0)
    data.inputs = model.inputs
    batch = next(iter(data.train_dataloader()))
    estimate = estimate_memory(task, batch.first(4), batch_size)

    optimizer = torch.optim.AdamW(task.parameters(), fused=True)

    def step() -> None:
        task.objective(model(batch), batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    peak = peak_memory(step)  # its first call makes AdamW's moments, so they count as held
    held = sum(t.numel() * t.element_size() for t in (*task.parameters(), *task.buffers()))
    moments = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values())
    assert estimate.total == pytest.approx(held + moments + peak, rel=0.15)


@pytest.mark.parametrize("rows", [4096, 6144])
def test_a_loss_in_strips_is_estimated_by_a_line(
    rows: int, make_model: Callable[..., DualEncoder], make_batch: Callable[..., ImageTextBatch]
) -> None:
    task, batch = ContrastiveTask(make_model(), InfoNCE()), make_batch(4)
    objective = estimate_memory(task, batch, rows).objective

    def step() -> None:
        image, text = (torch.ones(rows, 16, requires_grad=True) for _ in range(2))
        scale = torch.ones(1, requires_grad=True)
        task.objective(Embeddings(image, text, scale), batch._replace(concept=torch.arange(rows))).loss.backward()

    assert objective == pytest.approx(peak_memory(step), rel=0.15)


def test_a_batch_in_micro_batches_takes_the_activations_of_one(
    make_model: Callable[..., DualEncoder], make_batch: Callable[..., ImageTextBatch]
) -> None:
    model, batch = make_model(), make_batch(64)
    whole, parts = (ContrastiveTask(model, InfoNCE(), micro_batch_size=rows) for rows in (None, 8))
    estimate = estimate_memory(parts, batch.first(4), 64)
    measured = peak_memory(lambda: parts._both(batch)[1].loss.backward())
    model.zero_grad(set_to_none=True)
    assert estimate.step == pytest.approx(measured, rel=0.25)
    assert estimate.step < estimate_memory(whole, batch.first(4), 64).step / 2


def test_peak_of_a_known_step() -> None:
    def step() -> None:
        a = torch.zeros(1 << 20)  # 4 MiB
        b = torch.zeros(1 << 20)
        del a, b
        torch.zeros(1 << 19)

    assert peak_memory(step) == pytest.approx(8 << 20, rel=0.01)
