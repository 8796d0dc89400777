"""Watches a contrastive run and says in plain words what is wrong and what to try."""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from clipkit.functional import effective_rank, in_batch_accuracy, repeated_share, spread
from clipkit.steps import is_logged, log_every
from clipkit.types import ImageTextBatch

__all__ = ["Health", "NonFiniteLoss"]

log = logging.getLogger("clipkit.health")

MOST_ROWS = 1024
"""Statistics of embeddings look at no more rows than these, whatever the batch."""

CHANCE = (
    "the loss stays at ln B = {chance:.2f}, which is what guessing costs: nothing is learned yet. Try a higher or "
    "lower model.lr, fewer model.warmup steps, or look whether captions belong to their images"
)
CLAMPED = (
    "logit_scale has been at its clamp ({scale:.0f}) for {steps} steps: the temperature is too cold to learn from. Try "
    "a lower model.lr, or a smaller head.max_logit_scale"
)
COLLAPSED = (
    "the {side} embeddings hardly differ (spread {spread:.3f}): the {side} tower has collapsed. Try a lower model.lr, "
    "more model.warmup, or gradient clipping (trainer.gradient_clip_val: 1)"
)
FLAT = (
    "the {side} embeddings use {rank:.1f} of {most} directions (effective rank): they hardly tell things apart. Try a "
    "lower model.lr, more model.warmup, or a larger data.batch_size"
)
REPEATED = (
    "{share:.0%} of the rows meet their own caption as a wrong answer (false negatives). Set data.concept: caption, or "
    "data.distinct_concepts: true with data.concept naming a column"
)
TRUNCATED = (
    "{share:.0%} of the captions are cut at {context} tokens. Raise the text tower's context_length, or shorten them"
)
SPIKED = (
    "the gradient norm of {child} is {times:.0f} times its usual: expect a jump of the loss. Try "
    "trainer.gradient_clip_val: 1, or a lower model.lr"
)
SKIPPED = (
    "the gradients of step {step} are not finite (NaN or infinite): the step was skipped ({count} of {most} allowed). "
    "Samples: {positions}"
)


class NonFiniteLoss(RuntimeError):
    """Loss or gradients were NaN or infinite more often than a passing fault would make them."""


class Health(pl.Callback):
    """Logs ``health/...`` at the trainer's log steps and warns, once a matter.

    Non-finite gradients skip the optimiser's step on the device (its state is left alone), up to ``skips`` times.

    Args:
        skips: Steps that may be skipped before the run stops.
        patience: Log steps a condition must hold before it is said.
    """

    def __init__(self, skips: int = 3, patience: int = 5) -> None:
        self.skips, self.patience = skips, patience
        self.findings: list[str] = []
        self._said: set[str] = set()
        self._held: dict[str, int] = {}
        self._usual: dict[str, float] = {}
        self._window: list[Tensor] = []  # positions of the batches that the next step is made of
        self._recent: deque[tuple[int, list[Tensor], Tensor]] = deque(maxlen=512)  # not looked at yet
        self._skipped = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Note which samples come."""
        self._window.append(batch.position)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure gradients by child of the model, and skip the step where one is not finite."""
        model: Any = pl_module.model  # a task's
        norms = {name: _grad_norm(child) for name, child in model.named_children()} or {"model": _grad_norm(model)}
        bad = ~sum(norms.values(), torch.zeros((), device=pl_module.device)).isfinite()
        self._recent.append((trainer.global_step, self._window, bad))
        self._window = []
        # A fused optimiser leaves weights and state alone where found_inf is 1, with no wait for the device.
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # read by fused optimisers
        logged = is_logged(trainer, trainer.global_step + 1)
        if logged:
            self._watch_gradients(pl_module, norms)
        if logged or pl_module.device.type == "cpu":
            self._count_skips()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: ImageTextBatch, batch_idx: int
    ) -> None:
        """Look at the embeddings, the captions and the loss of a logged step."""
        found = outputs.get("outputs") if isinstance(outputs, dict) else None
        contrastive = {"image", "text", "logit_scale"} <= set(getattr(found, "_fields", ()))
        if not (is_logged(trainer, trainer.global_step) and contrastive):
            return
        stats = _statistics(found, batch)
        pl_module.log_dict({f"health/{name}": value for name, value in stats.items()}, batch_size=len(batch.image))
        values = {name: float(value) for name, value in (*stats.items(), ("scale", found.logit_scale))}  # type: ignore[union-attr]  # looked for above
        self._watch_embeddings(values, min(len(batch.image), MOST_ROWS, found.image.shape[1]))  # type: ignore[union-attr]  # looked for above
        self._watch_captions(values, batch.tokens.shape[1])
        self._watch_loss(trainer, float(outputs["loss"]), len(batch.image))
        self._watch_scale(pl_module, float(values["scale"]), log_every(trainer))

    def _watch_gradients(self, pl_module: pl.LightningModule, norms: dict[str, Tensor]) -> None:
        pl_module.log_dict({f"health/grad_norm_{name}": norm for name, norm in norms.items()})
        for name, norm in norms.items():
            value, usual = float(norm), self._usual.get(name)
            if not math.isfinite(value):
                continue
            if usual is not None and value > 20 * usual > 0:
                self._say(f"spike {name}", SPIKED.format(child=name, times=value / usual))
            self._usual[name] = value if usual is None else 0.9 * usual + 0.1 * value

    def _count_skips(self) -> None:
        for step, window, bad in self._recent:
            if not bad:
                continue
            self._skipped += 1
            positions = ", ".join(str(p) for part in window for p in part.tolist())
            message = SKIPPED.format(step=step, count=self._skipped, most=self.skips, positions=positions)
            if self._skipped > self.skips:
                advice = "Try a lower model.lr, trainer.precision: 32-true, or look at these samples"
                raise NonFiniteLoss(f"{message}. {advice}")
            log.warning(message)
            self.findings.append(message)
        self._recent.clear()

    def _watch_embeddings(self, values: dict[str, float], most: int) -> None:
        for side in ("image", "text"):
            near, rank = values[f"spread_{side}"], values[f"rank_{side}"]
            self._hold(f"collapse {side}", near < 0.02 and most > 1, COLLAPSED.format(side=side, spread=near))
            # Towers that have learned nothing stand at 15 % and more.
            few = most >= 8 and rank < max(2.0, 0.02 * most)
            self._hold(f"rank {side}", few and near >= 0.02, FLAT.format(side=side, rank=rank, most=most))

    def _watch_captions(self, values: dict[str, float], context: int) -> None:
        self._hold("repeated", values["false_negatives"] > 0.05, REPEATED.format(share=values["false_negatives"]))
        self._hold("cut", values["truncated"] > 0.05, TRUNCATED.format(share=values["truncated"], context=context))

    def _watch_loss(self, trainer: pl.Trainer, loss: float, rows: int) -> None:
        chance = math.log(rows * trainer.world_size)
        self._hold("chance", rows > 1 and abs(loss - chance) < 0.01 * chance, CHANCE.format(chance=chance))

    def _watch_scale(self, pl_module: pl.LightningModule, scale: float, every: int) -> None:
        head = getattr(pl_module.model, "head", None)
        limit = getattr(head, "max_logit_scale", math.inf)
        clamped = math.log(max(scale, 1e-9)) > limit - 1e-4
        self._hold("clamp", clamped, CLAMPED.format(scale=scale, steps=self.patience * every))

    def _hold(self, matter: str, wrong: bool, message: str) -> None:
        """Say ``message`` once what is wrong has been so for ``patience`` log steps."""
        self._held[matter] = self._held.get(matter, 0) + 1 if wrong else 0
        if self._held[matter] >= self.patience:
            self._say(matter, message)

    def _say(self, matter: str, message: str) -> None:
        if matter not in self._said:
            self._said.add(matter)
            self.findings.append(message)
            log.warning(message)


def _grad_norm(module: torch.nn.Module) -> Tensor:
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    if not grads:
        return next((p.new_zeros(()) for p in module.parameters()), torch.zeros(()))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)).float())
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # of shards: every rank takes part


def _statistics(found: Any, batch: ImageTextBatch) -> dict[str, Tensor]:
    image, text, concept = found.image[:MOST_ROWS], found.text[:MOST_ROWS], batch.concept[:MOST_ROWS]
    stats = {
        "spread_image": spread(image),
        "spread_text": spread(text),
        "rank_image": effective_rank(image),
        "rank_text": effective_rank(text),
        "in_batch_accuracy": in_batch_accuracy(image, text, concept),
        "false_negatives": repeated_share(batch.tokens, batch.concept),
    }
    cut = batch.extra.get("truncated")
    return {**stats, "truncated": cut.float().mean() if cut is not None else torch.zeros(())}
