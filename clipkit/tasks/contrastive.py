"""Contrastive training of a model under an objective."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from clipkit.models.saving import HEADER, header
from clipkit.objectives import Objective
from clipkit.optim import Schedule, Trainable, keep_layout, parameter_groups, set_trainable, warmup_factor
from clipkit.steps import is_logged
from clipkit.tasks.micro_batches import check_micro_batches, in_micro_batches
from clipkit.types import ArgumentError, ImageTextBatch, ObjectiveOutput

__all__ = ["ContrastiveTask"]

ACCUMULATING = (
    "trainer.accumulate_grad_batches={batches} averages the gradients of {batches} batches, each with the negatives of "
    "its own batch alone. For more negatives in the same memory set data.batch_size to the whole and "
    "model.micro_batch_size to what fits."
)


class ContrastiveTask(pl.LightningModule):
    """Trains a model with AdamW, warm-up and a cosine (CLIP, arXiv 2103.00020, section 2.5).

    Args:
        model: Batch to a named tuple of outputs; made of components, so that its checkpoints can be read alone.
        objective: Outputs and batch to a loss.
        lr: Peak learning rate.
        weight_decay: On parameters of two dimensions and more.
        betas: Of AdamW.
        eps: Of AdamW.
        warmup: Steps of linear warm-up.
        schedule: ``cosine`` to zero over the run, or ``constant``.
        trainable: What trains, by child of the model: ``all``, ``none`` or its last N blocks. All where none is said.
        lr_scale: Factor on the learning rate, by child of the model.
        compile: Whether to compile model and objective with ``torch.compile``.
        micro_batch_size: Samples that the model sees at a time. The loss is over the whole batch, the memory that of
            this many, the time that of a forward pass more.

    Raises:
        ArgumentError: For a child the model does not have, another schedule, nothing left to train, a model whose
            checkpoints could not be read again, or one that cannot run in micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        lr: float = 5e-4,
        weight_decay: float = 0.2,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        warmup: int = 2000,
        schedule: Schedule = "cosine",
        trainable: Mapping[str, Trainable] | None = None,
        lr_scale: Mapping[str, float] | None = None,
        compile: bool = False,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, (betas[0], betas[1]), eps
        self.warmup, self.schedule = warmup, schedule
        self.lr_scale, self.micro_batch_size = dict(lr_scale or {}), micro_batch_size
        set_trainable(model, trainable or {})
        self._refuse_late_errors()
        for part in (model, objective) if compile else ():
            part.compile()
        modules = itertools.chain(model.modules(), objective.modules())
        self._after_step: list[Any] = [module for module in modules if hasattr(module, "after_optimizer_step")]

    @classmethod
    def check(cls, model: Any, **given: Any) -> None:
        """Refuse a child that is a slip of one the model's arguments name, before anything is built.

        Raises:
            ArgumentError: Naming the child that was meant.
        """
        parts = list(model.get("init_args", {})) if isinstance(model, dict) else []
        for argument in ("trainable", "lr_scale"):
            for name in given.get(argument) or {}:
                near = difflib.get_close_matches(name, parts, n=1)
                if near and name not in parts:
                    hint = f"the model has no child {name!r}; did you mean {near[0]!r}?"
                    raise ArgumentError(f"{argument}.{name}", hint)

    def configure_model(self) -> None:
        """Share the parameters out to the ranks, where the strategy leaves that to the task (``FSDP2``)."""
        if self.device_mesh is not None:
            from clipkit.tasks.sharding import shard  # half a second that no other run has to wait for

            for part in (self.model, self.objective):
                shard(part, self.device_mesh)

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> dict[str, Any]:
        """One step; the loss, and the outputs detached for whoever watches."""
        outputs, objective = self._both(batch)
        if self._is_logged():
            logs = {f"train/{name}": value for name, value in objective.logs.items()}
            # A rank's share alone is not the loss.
            # Not to Lightning's progress bar, for which it would be read, and waited for, at every step from here on.
            self.log("train/loss", objective.loss.detach(), sync_dist=True, batch_size=len(batch.image))
            self.log_dict({**logs, **_temperature(outputs)}, batch_size=len(batch.image))
        return {"loss": objective.loss, "outputs": _detached(outputs)}

    def validation_step(self, batch: ImageTextBatch, batch_idx: int) -> Any:
        """The loss on one batch of one rank; the outputs for whoever measures."""
        outputs, objective = self._both(batch)
        logs = {f"val/{name}": value for name, value in objective.logs.items()}
        self.log("val/loss", objective.loss, prog_bar=True, sync_dist=True, batch_size=len(batch.image))
        self.log_dict(logs, sync_dist=True, batch_size=len(batch.image))
        return _detached(outputs)

    def on_train_start(self) -> None:
        """Say what accumulating does not do."""
        if self.trainer.accumulate_grad_batches > 1:
            rank_zero_warn(ACCUMULATING.format(batches=self.trainer.accumulate_grad_batches))

    def on_train_epoch_start(self) -> None:
        """Frozen parts stay in eval mode: their batch-norm statistics and dropout are part of what is frozen."""
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, then ``after_optimizer_step(step)``, from 0, of the model's and objective's parts."""
        super().optimizer_step(*args, **kwargs)
        for module in self._after_step:
            module.after_optimizer_step(self.global_step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, fused, with two groups a rate, and the schedule by step."""
        optimizer = torch.optim.AdamW(self._groups(), lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
        # Lightning refuses to clip gradients for an optimiser that unscales them itself, in bf16 too, where nothing is
        # scaled. Told that this one does not, it unscales before it clips, which is right for any precision.
        optimizer._step_supports_amp_scaling = False
        keep_layout(optimizer)
        factor = warmup_factor(self.schedule, self.warmup, self._steps())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what ``clipkit.load`` needs to make the model again."""
        checkpoint[HEADER] = header(self.model)

    def _both(self, batch: ImageTextBatch) -> tuple[Any, ObjectiveOutput]:
        rows = self.micro_batch_size
        outputs = self.model(batch) if rows is None else in_micro_batches(self.model, batch, rows)
        return outputs, self.objective(outputs, batch)

    def _is_logged(self) -> bool:
        """Whether a logger takes this step's figures, or a checkpoint the epoch's last ones.

        Lightning looks at its log steps only when it has already gathered the figures of every step, from all ranks.
        """
        return is_logged(self.trainer, self.global_step + 1) or self.trainer.is_last_batch

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.model, self.lr, self.weight_decay, self.lr_scale, others=[self.objective])

    def _steps(self) -> int:
        """Optimiser's steps of the whole run, for the cosine."""
        steps = self.trainer.estimated_stepping_batches
        if self.schedule == "cosine" and math.isinf(steps):
            raise ArgumentError("schedule", "a cosine needs an end: set trainer.max_epochs or trainer.max_steps")
        if self.warmup >= steps:
            rank_zero_warn(f"the warm-up of {self.warmup} steps does not end within the {steps} steps of this run")
        return 0 if math.isinf(steps) else int(steps)

    def _refuse_late_errors(self) -> None:
        """Find now what would otherwise stop the first step or, worse, the first checkpoint."""
        self._groups()
        if self.micro_batch_size is not None:
            check_micro_batches(self.model, self.micro_batch_size)
        warmup_factor(self.schedule, self.warmup, 0)
        try:
            header(self.model)
        except TypeError as error:
            raise ArgumentError("model", str(error)) from error


def _detached(outputs: Any) -> Any:
    return type(outputs)(*(value.detach() if isinstance(value, Tensor) else value for value in outputs))


def _temperature(outputs: Any) -> dict[str, Tensor]:
    names = ("logit_scale", "logit_bias")
    found = {name: getattr(outputs, name, None) for name in names}
    return {f"train/{name}": value.detach().squeeze() for name, value in found.items() if value is not None}
