"""What Health says, and that a step with non-finite gradients leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from clipkit.callbacks import Health, NonFiniteLoss

Fit = Callable[..., Any]


class Poison(pl.Callback):
    """Makes some steps' gradients NaN, before Health looks at them."""

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.before, self.moments = steps, {}, {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step in self.steps:
            self.before = copy.deepcopy(pl_module.model.state_dict())
            self.moments = copy.deepcopy(optimizer.state_dict()["state"])
            next(pl_module.model.parameters()).grad.fill_(float("nan"))


class Compare(pl.Callback):
    """Notes whether weights moved at a step."""

    def __init__(self, poison: Poison) -> None:
        self.poison, self.same = poison, {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step - 1
        if step in self.poison.steps:
            now = pl_module.model.state_dict()
            weights = all(torch.equal(now[name], value) for name, value in self.poison.before.items())
            state = trainer.optimizers[0].state_dict()["state"]
            moments = all(
                torch.equal(state[i]["exp_avg"], old["exp_avg"]) and torch.equal(state[i]["step"], old["step"])
                for i, old in self.poison.moments.items()
            )
            self.same[step] = weights and moments


def test_nonfinite_step_is_skipped_exactly(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    poison = Poison({2})
    compare = Compare(poison)
    health = Health()
    fit([poison, health, compare])
    assert compare.same == {2: True}
    assert any("not finite" in finding for finding in health.findings)
    assert "16, 17, 18" in " ".join(health.findings)  # the positions of the third batch of eight


def test_more_than_three_stop_with_the_positions(fit: Fit) -> None:
    with pytest.raises(NonFiniteLoss, match=r"32, 33, 34.*lower model\.lr"):
        fit([Poison({1, 2, 3, 4}), Health()])


def test_a_healthy_run_is_not_nagged(fit: Fit) -> None:
    health = Health()
    trainer, _ = fit([health], lr=1e-2)
    assert health.findings == []
    for name in ("spread_image", "rank_text", "in_batch_accuracy", "false_negatives", "truncated", "grad_norm_vision"):
        assert f"health/{name}" in trainer.callback_metrics


def test_says_that_nothing_is_learned(fit: Fit, tiny_model: Callable[..., Any]) -> None:
    health = Health(patience=3)
    fit([health], model=tiny_model(init_logit_scale=-5.0), lr=0.0)
    assert any("ln B = 2.08" in finding for finding in health.findings)


def test_says_that_the_scale_is_clamped(fit: Fit, tiny_model: Callable[..., Any]) -> None:
    health = Health(patience=3)
    fit([health], model=tiny_model(init_logit_scale=9.0), lr=0.0)
    assert any("clamp (100)" in finding for finding in health.findings)


def test_says_that_a_tower_collapsed(fit: Fit, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    nn.init.zeros_(model.vision.layer.weight)
    health = Health(patience=3)
    fit([health], model=model, lr=0.0)
    assert any("image embeddings hardly differ" in finding for finding in health.findings)


def test_says_that_embeddings_lie_along_a_line(fit: Fit, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    nn.init.zeros_(model.vision.layer.bias)
    with torch.no_grad():
        model.vision.layer.weight[1:] = 0  # one number an image, either sign
    health = Health(patience=3)
    fit([health], model=model, lr=0.0)
    (finding,) = (finding for finding in health.findings if "effective rank" in finding)
    assert finding.startswith("the image embeddings use 1.0 of 8 directions")


def test_says_that_a_gradient_jumps(fit: Fit) -> None:
    class Jump(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for parameter in pl_module.model.text.parameters():
                parameter.grad.mul_(100 if trainer.global_step == 5 else 1)

    health = Health()
    fit([Jump(), health], lr=0.0)
    (finding,) = health.findings
    assert finding.startswith("the gradient norm of text is ") and "trainer.gradient_clip_val: 1" in finding


def test_says_that_captions_repeat_and_are_cut(
    fit: Fit, tiny_model: Callable[..., Any], tiny_batches: Callable[..., Any]
) -> None:
    model = tiny_model()
    batches = tiny_batches(model, words=["the same"] * 4 + ["another", "third", "fourth", "fifth"])
    batches = [b._replace(extra={"truncated": torch.ones(8, dtype=torch.bool)}) for b in batches]
    health = Health(patience=3)
    fit([health], model=model, batches=batches)
    assert any(finding.startswith("50% of the rows") for finding in health.findings)
    assert any("cut at" in finding for finding in health.findings)


def test_gradient_norm_is_that_of_each_child(fit: Fit) -> None:
    norms: dict[str, float] = {}

    class Reference(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for name, child in pl_module.model.named_children():
                squares = [float((p.grad**2).sum()) for p in child.parameters() if p.grad is not None]
                norms[name] = sum(squares) ** 0.5

    trainer, _ = fit([Reference(), Health()])
    for name, norm in norms.items():
        assert float(trainer.callback_metrics[f"health/grad_norm_{name}"]) == pytest.approx(norm, rel=1e-4)


def test_a_model_with_no_parts_is_watched_as_a_whole(make_batch):
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

    module = pl.LightningModule()
    module.model = Whole()
    module.model.weight.grad = torch.tensor([float("nan")])
    health, optimizer = Health(), torch.optim.AdamW(module.parameters(), fused=True)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=1000)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 1
    health.on_before_optimizer_step(trainer, module, optimizer)
    assert float(optimizer.found_inf) == 1
