"""A batch in parts against the batch at once, and what cannot be had in parts."""

from __future__ import annotations

import copy
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from clipkit.benchmarking import peak_memory
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.tasks import ContrastiveTask
from clipkit.tasks.micro_batches import in_micro_batches
from clipkit.towers import BagOfWordsTower, TimmTower
from clipkit.types import ArgumentError


def model_of(name, **options):
    torch.manual_seed(0)
    text = BagOfWordsTower(width=16)
    return DualEncoder(TimmTower(name, image_size=32, **options), text, partial(ContrastiveHead, embed_dim=16))


def loss_and_gradients(model, outputs, batch):
    loss = InfoNCE()(outputs, batch).loss
    loss.backward()
    found = [loss.detach(), *(p.grad for p in model.parameters())]
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("rows", [2, 3, 5, 8, 100])
def test_gradients_are_those_of_the_batch_at_once(make_model, make_batch, rows):
    model, batch = make_model().double(), make_batch(8)
    whole = loss_and_gradients(model, model(batch), batch)
    parts = loss_and_gradients(model, in_micro_batches(model, batch, rows), batch)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"timm_kwargs": {"proj_drop_rate": 0.3, "drop_path_rate": 0.3}}, {"patch_drop": 0.5}]
)
def test_what_is_dropped_is_dropped_again_in_the_backward_pass(make_batch, options):
    model, batch = model_of("test_vit", **options).train(), make_batch(6)
    torch.manual_seed(1)
    kept = [model(batch.part(slice(start, start + 2))) for start in range(0, 6, 2)]
    outputs = type(kept[0])(*(torch.cat(x) for x in list(zip(*kept, strict=True))[:2]), kept[0].logit_scale)
    reference = loss_and_gradients(model, outputs, batch)
    torch.manual_seed(1)
    again = loss_and_gradients(model, in_micro_batches(model, batch, 2), batch)
    for a, b in zip(again, reference, strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(2)
    assert not torch.equal(loss_and_gradients(model, in_micro_batches(model, batch, 2), batch)[0], reference[0])


def test_batch_norm_that_trains_is_refused_and_frozen_it_is_not():
    with pytest.raises(ArgumentError, match=r"vision\.backbone\.\S+ is batch-norm in training: it would see 4 rows"):
        ContrastiveTask(model_of("test_resnet"), InfoNCE(), micro_batch_size=4)
    ContrastiveTask(model_of("test_resnet"), InfoNCE(), micro_batch_size=4, trainable={"vision": "none"})


@pytest.mark.parametrize("rows", [1, 0, -4])
def test_less_than_two_rows_are_refused(make_model, rows):
    with pytest.raises(ArgumentError, match=f"micro_batch_size: {rows} is not at least 2"):
        ContrastiveTask(make_model(), InfoNCE(), micro_batch_size=rows)


def fit(model, batches, rows, **options):
    task = ContrastiveTask(model, InfoNCE(), lr=1e-3, warmup=1, micro_batch_size=rows)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **quiet, **options)
    trainer.fit(task, DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
    return task, trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_in_parts_is_the_run_at_once(make_model, make_batch, precision):
    model, batches = make_model(), [make_batch(8, seed=seed) for seed in range(2)]
    (whole, first), (parts, second) = (
        fit(copy.deepcopy(model), batches, rows, precision=precision) for rows in (None, 3)
    )
    bar = 1e-4 if precision == "32-true" else 5e-3
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=bar, atol=bar)
    for name in ("train/loss", "val/loss"):
        assert float(first.callback_metrics[name]) == pytest.approx(float(second.callback_metrics[name]), rel=bar)


def test_accumulating_says_that_negatives_do_not_grow(make_model, make_batch):
    with pytest.warns(UserWarning, match="its own batch alone.*model.micro_batch_size"):
        fit(make_model(), [make_batch(4)], None, accumulate_grad_batches=2)


def test_memory_is_that_of_a_part(make_batch):
    model, batch = model_of("test_vit"), make_batch(128)

    def step(rows):
        InfoNCE()(in_micro_batches(model, batch, rows), batch).loss.backward()

    assert peak_memory(lambda: step(8)) < peak_memory(lambda: step(128)) / 3
