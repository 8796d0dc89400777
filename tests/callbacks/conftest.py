"""A contrastive run that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.tasks import ContrastiveTask
from clipkit.towers import BagOfWordsTower, VisionTower
from clipkit.types import Features, ImageTextBatch

WORDS = ["red heart", "dog face", "blue book", "green apple", "sun", "moon", "star", "car"]


class Pixels(VisionTower):
    """One linear layer on the pixels."""

    image_size = (4, 4)
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    interpolation = "bicubic"
    width = 16

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 16)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, 4, 4) to (B, 16)."""
        return Features(self.layer(image.float().flatten(1) / 255 - 0.5))


def make_model(**head: Any) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(Pixels(), BagOfWordsTower(16, context_length=8), partial(ContrastiveHead, embed_dim=16, **head))


def make_batches(model: DualEncoder, batches: int = 8, words: list[str] | None = None) -> list[ImageTextBatch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for i in range(batches):
        tokens, mask = model.tokenizer(words or WORDS)
        rows = len(tokens)
        ids = torch.arange(rows) + i * rows
        image = torch.randint(0, 256, (rows, 3, 4, 4), generator=generator, dtype=torch.uint8)
        truncated = torch.zeros(rows, dtype=torch.bool)
        made.append(ImageTextBatch(image, tokens, mask, ids, ids, {"truncated": truncated}))
    return made


Fit = Callable[..., tuple[pl.Trainer, ContrastiveTask]]


@pytest.fixture
def fit() -> Fit:
    """Train a tiny model with some callbacks; keywords go to the task, the data or the trainer."""

    def run(
        callbacks: list[pl.Callback],
        model: DualEncoder | None = None,
        batches: list[ImageTextBatch] | None = None,
        trainer: dict[str, Any] | None = None,
        **task: Any,
    ) -> tuple[pl.Trainer, ContrastiveTask]:
        model = model or make_model()
        module = ContrastiveTask(model, InfoNCE(), **{"lr": 1e-3, "warmup": 1, **task})
        options: dict[str, Any] = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            **(trainer or {}),
        }
        made = pl.Trainer(callbacks=callbacks, **options)
        loader: Any = DataLoader(batches or make_batches(model), batch_size=None)  # type: ignore[arg-type]  # batches as they are
        made.fit(module, loader)
        return made, module

    return run


@pytest.fixture
def tiny_model() -> Callable[..., DualEncoder]:
    """Makes the model of ``fit``; keywords go to its head."""
    return make_model


@pytest.fixture
def tiny_batches() -> Callable[..., list[ImageTextBatch]]:
    """Makes the batches of ``fit``."""
    return make_batches
