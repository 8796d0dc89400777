"""A picture and a task that fits it in no time."""

from __future__ import annotations

import io

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import nn

from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), number, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(48, 1)
        self.model.inputs = InputSpec((4, 4), (0.5,) * 3, (0.5,) * 3, "bilinear", read_tokenizer("emoji"), 8, "longest")

    def training_step(self, batch, batch_idx):
        return self.model(batch.image.float().flatten(1)).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-9)
