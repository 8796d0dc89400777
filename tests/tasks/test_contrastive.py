"""The task against a hand-written loop, and what trains how fast."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

import clipkit
from clipkit.objectives import InfoNCE
from clipkit.tasks import ContrastiveTask
from clipkit.types import ArgumentError

STEPS = 6
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")


class Recorder(pl.Callback):
    """Losses and rates of every step."""

    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.fixture
def batches(make_batch):
    return [make_batch(8, seed=seed) for seed in range(STEPS)]


def fit(task, batches, *callbacks, **options):
    recorder = Recorder()
    quiet: dict[str, Any] = dict.fromkeys(QUIET, False)
    settings = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, **quiet, **options}
    trainer = pl.Trainer(callbacks=[recorder, *callbacks], **settings)
    trainer.fit(task, DataLoader(batches, batch_size=None))
    return trainer, recorder


def by_hand(model, batches, clip=None, dtype=None):
    """Losses and weights of the plainest loop: AdamW, no decay on 1-D parameters, two steps of warm-up, a cosine."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    # In bf16 fused as the task's is: the rounding of another can become one of 2^-8 in the next pass.
    optimizer = torch.optim.AdamW(groups, lr=0, betas=(0.9, 0.98), eps=1e-6, fused=dtype is not None)
    losses = []
    for step, batch in enumerate(batches):
        factor = (step + 1) / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / (STEPS - 2))) / 2
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * factor
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = InfoNCE()(model(batch), batch).loss
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(decay + rest, clip)
        optimizer.step()
        with torch.no_grad():
            model.head.logit_scale.clamp_(max=math.log(100))
        losses.append(float(loss.detach()))
    return losses


def task_of(model, **options):
    return ContrastiveTask(model, InfoNCE(), **{"lr": 1e-3, "weight_decay": 0.3, "warmup": 2, **options})


@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({}, {}),
        ({"gradient_clip_val": 0.1}, {"clip": 0.1}),
        ({"precision": "bf16-mixed", "gradient_clip_val": 0.1}, {"clip": 0.1, "dtype": torch.bfloat16}),
    ],
    ids=["plain", "clipped", "bf16"],
)
def test_training_is_the_hand_written_loop(make_model, batches, options, hand):
    model = make_model()
    other = copy.deepcopy(model)
    losses = by_hand(other.train(), batches, **hand)
    _, recorder = fit(task_of(model), batches, **options)
    assert recorder.losses == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        # AdamW makes much of gradients that are rounding.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert len(set(losses)) == STEPS


def test_accumulated_batches_are_one_step(make_model, batches):
    trainer, recorder = fit(task_of(make_model(), warmup=1), batches, accumulate_grad_batches=3)
    assert trainer.global_step == 2
    assert [rates[0] for rates in recorder.rates] == pytest.approx([1e-3] * 5 + [0.0], abs=1e-9)


def test_figures_of_the_log_steps_and_of_an_epochs_last(make_model, batches, monkeypatch):
    logged = []
    monkeypatch.setattr(ContrastiveTask, "log", lambda self, name, *args, **given: logged.append(self.global_step))
    for every, expected in ((2, [1, 3, len(batches) - 1]), (50, [len(batches) - 1])):
        logged.clear()
        fit(task_of(make_model()), batches, log_every_n_steps=every)
        assert sorted(set(logged)) == sorted(set(expected))


def test_two_groups_a_rate_fused(make_model, batches):
    task = task_of(make_model(), lr_scale={"vision": 0.1})
    trainer, recorder = fit(task, batches)
    (optimizer,) = trainer.optimizers
    assert optimizer.defaults["fused"]
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert set(groups) == {"decay", "no_decay", "decay_x0.1", "no_decay_x0.1"}
    for name, group in groups.items():
        assert {p.ndim > 1 for p in group["params"]} == {not name.startswith("no")}
        assert group["weight_decay"] == (0 if name.startswith("no") else 0.3)
    assert sum(len(group["params"]) for group in groups.values()) == len(list(task.model.parameters()))
    vision = {id(p) for p in task.model.vision.parameters()}
    assert {id(p) for name in ("decay_x0.1", "no_decay_x0.1") for p in groups[name]["params"]} == vision
    slow = list(groups).index("decay_x0.1")
    fast = list(groups).index("decay")
    assert [rates[slow] for rates in recorder.rates] == pytest.approx([rates[fast] / 10 for rates in recorder.rates])


def test_a_constant_rate(make_model, batches):
    _, recorder = fit(task_of(make_model(), schedule="constant", warmup=3), batches)
    assert [rates[0] for rates in recorder.rates] == pytest.approx([2e-3 / 3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])


def test_what_is_frozen_stays_as_it_is(make_model, batches):
    model = make_model("test_resnet")
    before = copy.deepcopy(model.state_dict())
    statistics = [name for name in before if "running_mean" in name]
    assert statistics
    task = task_of(model, trainable={"vision": "none", "text": 1})
    _, recorder = fit(task, batches)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("vision.") for name in changed)  # batch norm's statistics neither
    assert {name for name in changed if name.startswith("text.")} == {
        name for name in before if name.startswith(("text.transformer.blocks.2.", "text.ln_final."))
    }
    assert any(name.startswith("head.") for name in changed)
    assert len(set(recorder.losses)) == STEPS


@pytest.mark.parametrize("argument", ["trainable", "lr_scale"])
def test_an_unknown_child_is_refused(make_model, argument):
    given: dict[str, Any] = {argument: {"vison": 1}}
    with pytest.raises(ArgumentError, match="the model has no child 'vison'") as caught:
        task_of(make_model(), **given)
    assert caught.value.argument == argument
    description = {"class_path": "clipkit.models.DualEncoder", "init_args": {"vision": {}, "text": {}}}
    with pytest.raises(ArgumentError, match="did you mean 'vision'"):
        ContrastiveTask.check(description, **given)
    ContrastiveTask.check(description, **{argument: {"vision": 1, "anything_else": 1}})


def test_nothing_left_to_train(make_model):
    with pytest.raises(ArgumentError, match="nothing of the model is left to train"):
        task_of(make_model(), trainable={"vision": "none", "text": "none", "head": "none"})


def test_a_model_that_could_not_be_saved_is_refused_at_once():
    with pytest.raises(ArgumentError, match="model: a Linear does not keep its arguments"):
        task_of(nn.Linear(2, 2))


def test_a_cosine_needs_an_end(make_model, batches):
    with pytest.raises(ArgumentError, match="schedule: a cosine needs an end"):
        fit(task_of(make_model()), batches, max_epochs=-1)


def test_a_warm_up_longer_than_the_run_is_told(make_model, batches):
    with pytest.warns(UserWarning, match="the warm-up of 50 steps does not end within the 6 steps"):
        fit(task_of(make_model(), warmup=50), batches)


def test_the_temperature_is_clamped_after_each_step(make_model, batches):
    model = make_model(init_logit_scale=math.log(100) - 1e-4, max_logit_scale=math.log(100))
    with torch.no_grad():
        model.head.logit_scale.fill_(9.0)
    fit(task_of(model), batches)
    assert float(model.head.logit_scale.detach()) <= math.log(100) + 1e-6


def test_objectives_hear_of_each_step(make_model, batches):
    class Hearing(InfoNCE):
        def after_optimizer_step(self, step: int) -> None:
            heard.append(step)

    heard: list[int] = []
    task = ContrastiveTask(make_model(), Hearing(), lr=1e-3, warmup=1)
    fit(task, batches, accumulate_grad_batches=2)
    assert heard == sorted(heard) and len(set(heard)) == 3


def test_weights_averaged_by_lightnings_own_callback(make_model, batches, tmp_path):
    model = make_model()
    start = copy.deepcopy(model)
    snapshots = []

    class Snapshot(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            snapshots.append(pl_module.model.text.positions.detach().clone())

    trainer, _ = fit(
        task_of(model),
        batches,
        Snapshot(),
        EMAWeightAveraging(decay=0.5),
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    average = start.text.positions.detach()
    for weights in snapshots:
        average = 0.5 * average + 0.5 * weights
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    loaded = clipkit.load(tmp_path / "ema.ckpt").text.positions
    torch.testing.assert_close(loaded, average)
    assert not torch.allclose(loaded, snapshots[-1])


@pytest.mark.parametrize("rows", [None, 3])
def test_a_compiled_model_trains_alike_without_graph_breaks(make_model, batches, monkeypatch, tmp_path, rows):
    compiled = []

    def compile_whole(self, **_: Any) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(nn.Module, "compile", compile_whole)
    model = make_model()
    other = copy.deepcopy(model)
    task = task_of(model, compile=True, micro_batch_size=rows)
    trainer, recorder = fit(task, batches[:3])
    assert compiled == [model, task.objective]
    assert recorder.losses == pytest.approx(fit(task_of(other), batches[:3])[1].losses, rel=1e-4)
    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    assert torch.equal(clipkit.load(tmp_path / "compiled.ckpt").text.positions, model.text.positions)


@pytest.mark.nightly
def test_the_default_compiler(make_model, batches):
    _, recorder = fit(task_of(make_model(), compile=True), batches[:3])
    assert recorder.losses == pytest.approx(fit(task_of(make_model()), batches[:3])[1].losses, rel=1e-3)


def test_checkpoints_are_read_alone(make_model, make_batch, batches, tmp_path):
    model = make_model()
    trainer, _ = fit(task_of(model), batches)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    other = clipkit.load(tmp_path / "plain.ckpt")
    batch = make_batch(4, seed=9)
    with torch.no_grad():
        assert torch.equal(other(batch).image, model.eval()(batch).image)


def test_validation_logs_the_loss_of_all(make_model, batches):
    task = task_of(make_model())
    trainer, _ = fit(task, batches, num_sanity_val_steps=0)
    (found,) = trainer.validate(task, DataLoader(batches, batch_size=None), verbose=False)
    task.model.eval()
    with torch.no_grad():
        by_batch = [float(InfoNCE()(task.model(batch), batch).loss) for batch in batches]
    assert found["val/loss"] == pytest.approx(sum(by_batch) / len(by_batch), rel=1e-5)


def test_two_ranks_train_as_one(make_model, batches, on_ranks):
    """Each rank takes half of every batch; gradients averaged over ranks are those of the whole batch."""

    def half(rank: int, world: int) -> list[torch.Tensor]:
        from torch.nn.parallel import DistributedDataParallel

        task = task_of(make_model().double())
        batch = batches[0]
        rows = slice(4 * rank, 4 * rank + 4)
        mine = batch._replace(**{name: getattr(batch, name)[rows] for name in batch._fields if name != "extra"})
        model = DistributedDataParallel(task.model)
        InfoNCE()(model(mine), mine).loss.backward()
        return [parameter.grad for parameter in task.model.parameters()]

    whole = make_model().double()
    InfoNCE()(whole(batches[0]), batches[0]).loss.backward()
    for grads in on_ranks(half):
        for grad, parameter in zip(grads, whole.parameters(), strict=True):
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-10, atol=1e-12)
