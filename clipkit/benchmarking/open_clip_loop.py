"""open_clip's own training loop around models of clipkit, to measure beside."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipkit.benchmarking.overhead import NoModel
from clipkit.models import DualEncoder
from clipkit.types import ImageTextBatch

__all__ = ["accumulated_step", "time_no_model"]

Loss = Callable[..., dict[str, Tensor]]


def accumulated_step(model: DualEncoder, batch: ImageTextBatch, rows: int) -> Callable[[], None]:
    """A step of ``--accum-freq`` small batches of so many rows, at a learning rate of 0.

    It makes the features of all without gradients; then, for each small batch, its features again with gradients, and
    the loss of the whole. The gradients are those of the whole batch, but for the temperature's, which is added up
    once a small batch.

    Raises:
        ModuleNotFoundError: Where open_clip_torch[training] is not installed.
    """
    from open_clip.loss import ClipLoss

    small = (batch.part(slice(start, start + rows)) for start in range(0, len(batch.image), rows))
    parts = [(part.image, part.tokens) for part in small]
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    scale: Any = model.head.logit_scale
    return lambda: _train(_Called(model, scale), ClipLoss(), optimizer, _Epoch(parts, len(parts), rows), len(parts))


def time_no_model(seconds: float, steps: int) -> float:
    """Seconds that each step takes, from the second on, where the model takes so many of them.

    It logs every 100 steps, to nowhere.

    Raises:
        ModuleNotFoundError: Where open_clip_torch[training] is not installed.
    """
    from open_clip_train.scheduler import cosine_lr

    ids = torch.arange(2)
    pairs: Any = [(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), ids[:, None])] * (steps + 1)  # a map-style data set
    model = NoModel(seconds)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    clock = _Clock(DataLoader(pairs, batch_size=None))
    epoch = _Epoch(clock, steps + 1, 2)
    _train(_Called(model, model.weight), _no_loss, optimizer, epoch, 1, cosine_lr(optimizer, 1e-5, 1, steps + 1))
    return clock.seconds / steps


class _Called(nn.Module):
    """A model as that loop calls its own, with the temperature that it keeps in bounds."""

    def __init__(self, model: nn.Module, logit_scale: nn.Parameter) -> None:
        super().__init__()
        self.model, self.logit_scale = model, logit_scale

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        ids = torch.arange(len(images), device=images.device)
        outputs = self.model(ImageTextBatch(images, texts, torch.ones_like(texts, dtype=torch.bool), ids, ids, {}))
        return {"image_features": outputs.image, "text_features": outputs.text, "logit_scale": outputs.logit_scale}


class _Epoch:
    """Batches as that loop is given them: a data set of which it asks for the loader, and that loader."""

    def __init__(self, batches: Iterable[Any], num_batches: int, rows: int) -> None:
        self.batches, self.num_batches, self.rows = batches, num_batches, rows
        self.num_samples, self.dataloader = num_batches * rows, self

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """There is one."""


class _Clock:
    """Batches, and the time from when the second is asked for to when there are no more."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        yield next(batches)
        start = time.perf_counter()
        yield from batches
        self.seconds = time.perf_counter() - start


def _no_loss(image_features: Tensor, output_dict: bool, **_: Tensor) -> dict[str, Tensor]:
    return {"contrastive_loss": image_features[0, 0].square()}


def _train(
    model: _Called,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    epoch: _Epoch,
    accumulated: int,
    scheduler: Callable[[int], Any] | None = None,
) -> None:
    from open_clip_train.train import train_one_epoch

    given = {"device": str(model.logit_scale.device), "precision": "fp32", "log_every_n_steps": 100}
    alone = {"rank": 0, "world_size": 1, "batch_size": epoch.rows, "accum_freq": accumulated}
    unused = dict.fromkeys(["distill", "horovod", "wandb"], False)
    args = Namespace(**given, **alone, **unused, grad_clip_norm=None, skip_scheduler=scheduler is None)
    train_one_epoch(model, {"train": epoch}, loss, 0, optimizer, None, scheduler, None, args)
