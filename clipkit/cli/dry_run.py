"""``clipkit fit --dry-run``: what a run would be, and one tiny step of it."""

from __future__ import annotations

import math
import os

import lightning.pytorch as pl
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from clipkit.benchmarking import MemoryEstimate, estimate_memory
from clipkit.cli.assembly import Assembled
from clipkit.types import ImageTextBatch

__all__ = ["dry_run"]

SAMPLES = 4


def dry_run(parts: Assembled) -> None:
    """Print parameters a tower, shapes, effective batch, steps, ln B and memory, and make one step of four samples.

    Args:
        parts: Task, data module and trainer of an experiment, none of them used yet.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # PyTorch's profiler talks to stderr
    task, data, trainer = parts
    data.inputs = task.model.inputs  # type: ignore[attr-defined, union-attr]  # a task's model, a caption data module
    data.workers = 0  # type: ignore[attr-defined]  # any data module
    loader = data.train_dataloader()
    batch = next(iter(loader))
    device = trainer.strategy.root_device
    task, batch = task.to(device), batch.to(device)
    console = Console()
    console.print(_parameters(task.model))
    console.print(_figures(task, trainer, batch, len(loader)))
    rows = len(batch.image)
    console.print(_memory(estimate_memory(task, batch.first(SAMPLES), rows), device))
    before, after = _tiny_step(task, batch.first(SAMPLES))
    console.print(f"one step of {SAMPLES} samples on {device}: loss {before:.4f}, then {after:.4f}")


def _parameters(model: nn.Module | Tensor) -> Table:
    table = Table("part", "class", title="parameters")
    for column in ("all", "trained"):
        table.add_column(column, justify="right")
    total = trained = 0
    for name, child in model.named_children():  # type: ignore[union-attr]  # a task's model
        count, open_ones = _count(child), _count(child, trained=True)
        total, trained = total + count, trained + open_ones
        table.add_row(name, type(child).__name__, f"{count:,}", f"{open_ones:,}", end_section=False)
    table.add_section()
    table.add_row("", "", f"{total:,}", f"{trained:,}")
    return table


def _figures(task: pl.LightningModule, trainer: pl.Trainer, batch: ImageTextBatch, steps: int) -> Table:
    rows, accumulated = len(batch.image), trainer.accumulate_grad_batches
    negatives = rows * trainer.world_size
    table = Table("figure", "value", title="a step")
    table.add_row("images", f"{tuple(batch.image.shape)} {batch.image.dtype}".replace("torch.", ""))
    table.add_row("tokens", f"{tuple(batch.tokens.shape)} {batch.tokens.dtype}".replace("torch.", ""))
    with torch.inference_mode():
        outputs = task.model.eval()(batch.first(2))  # type: ignore[union-attr]  # a task's model
    for name, value in zip(outputs._fields, outputs, strict=True):
        if isinstance(value, Tensor) and value.ndim == 2:
            table.add_row(f"{name} embeddings", f"({rows}, {value.shape[1]})")
    effective = f"{rows} a device x {trainer.world_size} devices x {accumulated} accumulated"
    effective = f"{negatives * accumulated:,} = {effective}"
    table.add_row("effective batch", effective)
    if accumulated > 1:
        table.add_row("", f"but negatives come from {negatives:,}: accumulating does not add any")
    table.add_row("steps", _steps(trainer, steps))
    table.add_row("ln B", f"{math.log(negatives):.3f}: the loss of guessing")
    return table


def _steps(trainer: pl.Trainer, batches: int) -> str:
    an_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    if trainer.max_steps > 0:
        return f"{trainer.max_steps:,} ({an_epoch:,} an epoch)"
    return f"{an_epoch * epochs:,} = {an_epoch:,} an epoch x {epochs} epochs" if epochs else f"{an_epoch:,} an epoch"


def _memory(estimate: MemoryEstimate, device: torch.device) -> Table:
    table = Table("memory", title=f"estimated for a batch of {estimate.batch_size}")
    table.add_column("GiB", justify="right")
    parts = {"weights": estimate.weights, "optimizer": estimate.optimizer}
    parts |= {"activations and gradients": estimate.step, "objective": estimate.objective}
    for name, size in parts.items():
        table.add_row(name, f"{size / 2**30:.2f}")
    table.add_section()
    there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    table.add_row(f"in all, of {there / 2**30:.1f} GiB free", f"{estimate.total / 2**30:.2f}")
    return table


def _tiny_step(task: pl.LightningModule, batch: ImageTextBatch) -> tuple[float, float]:
    task.train()
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    losses = []
    for _ in range(2):
        loss = task.objective(task.model(batch), batch).loss  # type: ignore[operator]  # a task's part
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[1]


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
