"""Two gloo ranks under DDP and FSDP2 against one process with the whole batch; runs that go on under the other."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

import clipkit
from clipkit.callbacks import Health, RandomState
from clipkit.checkpoints import DurableCheckpointIO, complete_checkpoints, consolidate, publish_folder
from clipkit.cli import main
from clipkit.cli.config import load_experiment
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.strategies import FSDP2, SyncBatchNorm
from clipkit.tasks import ContrastiveTask
from clipkit.towers import HuggingFaceTower, TimmTower
from clipkit.types import ArgumentError

ROWS, BATCHES = 8, 3
STRATEGIES = {"ddp": lambda: "ddp", "fsdp2": FSDP2, "sharded": lambda: FSDP2(save_distributed_checkpoint=True)}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "frozen text, clipped": ({"trainable": {"text": "none"}}, {"gradient_clip_val": 0.1}),
    "accumulated": ({}, {"accumulate_grad_batches": 3}),
    "in micro-batches": ({"micro_batch_size": 3}, {}),
    "bf16": ({}, {"precision": "bf16-mixed"}),
    "bf16, clipped": ({}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}),
}
QUIET = ("logger", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")


class Losses(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean").item())


def share(batch, rank, world):
    rows = len(batch.image) // world
    columns = {name: getattr(batch, name)[rank * rows : (rank + 1) * rows] for name in batch._fields[:-1]}
    return batch._replace(**columns)


@pytest.fixture(scope="module")
def fit(make_model, make_batch):
    """``fit(rank, world, strategy, task, trainer, ...)``: what a run lost, and the trainer."""
    made = make_model()

    def run(rank, world, strategy="alone", task=None, options=None, resume=None, callbacks=(), model=made):
        if strategy != "alone":  # as Lightning's own launcher would have set it, here for ranks that are there already
            os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
        options = {"max_epochs": 2, "plugins": [DurableCheckpointIO("tiny")], **(options or {})}
        losses = Losses()
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=world,
            strategy=strategy if isinstance(strategy, Strategy) else STRATEGIES.get(strategy, lambda: "auto")(),
            callbacks=[losses, Health(), RandomState(), *callbacks],
            **dict.fromkeys(QUIET, False),
            **{"enable_checkpointing": bool(callbacks), "log_every_n_steps": 2, **options},
        )
        module = ContrastiveTask(copy.deepcopy(model), InfoNCE(), lr=1e-3, warmup=2, **(task or {}))
        module = module if "precision" in options else module.double()
        batches = [share(make_batch(ROWS, seed=seed), rank, world) for seed in range(BATCHES)]
        trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
        return losses.losses, trainer

    return run


def weights(trainer):
    """The whole weights, on every rank."""
    found = trainer.lightning_module.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in found.items()}


@pytest.fixture(scope="module")
def on_two(on_ranks, fit):
    """Losses and weights after two epochs, by strategy and case."""

    def work(rank, world):
        found = {}
        for strategy in ("ddp", "fsdp2"):
            for case, (task, options) in CASES.items():
                losses, trainer = fit(rank, world, strategy, task, options)
                found[strategy, case] = losses, weights(trainer)
        return found

    return on_ranks(work)


def start_of(make_model):
    return {f"model.{name}": value for name, value in make_model().state_dict().items()}


def apart(found, expected, start):
    """How far from one another two runs have come, by how far one has come."""
    gap = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    way = sum(float((start[name] - value).square().sum()) for name, value in expected.items())
    return (gap / way) ** 0.5


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one(on_two, fit, make_model, strategy, case):
    losses, trainer = fit(0, 1, "alone", *CASES[case])
    expected = weights(trainer)
    start = start_of(make_model)
    # In bf16 AdamW makes much of gradients that are rounding.
    exact, near = (3e-2, 0.3) if "bf16" in case else (1e-8, 1e-8)
    for found, parameters in (rank[strategy, case] for rank in on_two):
        assert found == pytest.approx(losses, rel=exact)
        assert parameters.keys() == expected.keys()
        assert apart(parameters, expected, start) < near
    frozen = [name for name, value in expected.items() if torch.equal(value, start[name].to(value))]
    assert frozen == (
        [name for name in expected if name.startswith("model.text.")] if case.startswith("frozen") else []
    )


# Shards add up a norm in another order, and in bf16 what that rounds can become 2^-8 in the next pass.
@pytest.mark.parametrize(("case", "exact", "near"), [("bf16", 1e-6, 1e-6), ("bf16, clipped", 2**-8, 0.01)])
def test_in_bf16_the_strategies_agree(on_two, make_model, case, exact, near):
    for rank in on_two:
        (ddp, one), (fsdp2, other) = rank["ddp", case], rank["fsdp2", case]
        assert fsdp2 == pytest.approx(ddp, rel=exact)
        assert apart(other, one, start_of(make_model)) < near


def test_blocks_are_sharded_and_encoders_work_outside_forward(on_ranks, fit, make_model, make_batch):
    batch, texts = make_batch(4), ["a red heart", "a dog"]

    class Encode(pl.Callback):
        """Between two steps, as evaluation does."""

        def on_train_epoch_start(self, trainer, pl_module):
            model = pl_module.model.eval()
            with torch.no_grad():
                made = [model.encode_image(batch.image), model.encode_text(texts), model.prepare([texts])]
                self.made = [
                    *made,
                    model.encode_tokens(batch.tokens, batch.mask),
                    model.class_scores(batch.image, made[2]),
                ]
            model.train()

    def work(rank, world):
        encode = Encode()
        losses, trainer = fit(rank, world, "fsdp2", callbacks=[encode], options={"max_epochs": 1})
        model = trainer.lightning_module.model
        sharded = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
        held = sum(p.to_local().numel() for p in model.parameters())
        return sharded, held, encode.made, losses

    whole = make_model().double().eval()
    with torch.no_grad():
        made = [whole.encode_image(batch.image), whole.encode_text(texts), whole.prepare([texts])]
        expected = [*made, whole.encode_tokens(batch.tokens, batch.mask), whole.class_scores(batch.image, made[2])]
    found = on_ranks(work)
    for sharded, _, encoded, losses in found:
        blocks = [f"vision.backbone.blocks.{i}" for i in range(6)] + [f"text.transformer.blocks.{i}" for i in range(3)]
        assert sharded == ["", *blocks]
        for one, other in zip(encoded, expected, strict=True):
            torch.testing.assert_close(one, other)
        assert losses == pytest.approx(fit(0, 1, options={"max_epochs": 1})[0], rel=1e-8)
    total = sum(p.numel() for p in whole.parameters())
    assert sum(held for _, held, *_ in found) == total
    assert max(held for _, held, *_ in found) < 0.51 * total


@pytest.mark.nightly  # 40 seconds of tracing
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_compiled_model_trains_alike(on_ranks, fit, monkeypatch, strategy):
    def compile_fast(self, **_):
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_fast)

    def work(rank, world):
        losses, trainer = fit(rank, world, strategy, {"compile": True}, {"max_epochs": 1})
        return losses, weights(trainer)

    expected, trainer = fit(0, 1, options={"max_epochs": 1})
    for losses, parameters in on_ranks(work):
        assert losses == pytest.approx(expected, rel=1e-8)
        for name, value in weights(trainer).items():
            torch.testing.assert_close(parameters[name], value, rtol=1e-8, atol=1e-8)


BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 16}


@pytest.mark.parametrize("again", [False, True], ids=["plain", "gradient checkpointing"])
def test_the_libraries_blocks_train_sharded(on_ranks, fit, again):
    torch.manual_seed(0)
    vision = TimmTower("test_vit", image_size=32, gradient_checkpointing=again)
    quiet = {**BERT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = HuggingFaceTower(config=quiet, tokenizer="emoji", context_length=12, gradient_checkpointing=again)
    model = DualEncoder(vision, text, partial(ContrastiveHead, embed_dim=16))
    expected = fit(0, 1, options={"max_epochs": 1}, model=model)[0]

    def work(rank, world):
        losses, trainer = fit(rank, world, "fsdp2", options={"max_epochs": 1}, model=model)
        return losses, [type(module).__name__ for module in trainer.lightning_module.modules()]

    for losses, kinds in on_ranks(work):
        assert losses == pytest.approx(expected, rel=1e-8)
        assert (kinds.count("FSDPBlock"), kinds.count("FSDPBertLayer")) == (6, 2)


def test_the_first_ranks_weights_count(on_ranks, fit, make_model):
    def work(rank, world):
        class Another(pl.Callback):
            def setup(self, trainer, pl_module, stage):
                for value in (*pl_module.parameters(), *pl_module.buffers()):
                    value.data = value.data + rank

        return fit(rank, world, "fsdp2", callbacks=[Another()], options={"max_epochs": 1})[0]

    for losses in on_ranks(work):
        assert losses == pytest.approx(fit(0, 1, options={"max_epochs": 1})[0], rel=1e-8)


def test_what_would_go_wrong_is_refused(on_ranks, fit):
    def work(rank, world):
        with pytest.raises(ArgumentError, match="an average of weights is a whole copy"):
            fit(rank, world, "fsdp2", callbacks=[EMAWeightAveraging()])
        with pytest.raises(ArgumentError, match=r"1 of 2 devices.*clipkit\.strategies\.FSDP2") as caught:
            fit(rank, world, ModelParallelStrategy())
        return caught.value.argument

    assert on_ranks(work) == ["trainer.strategy"] * 2


TASK = {"trainable": {"text": "none"}, "lr_scale": {"vision": 0.5}}
GOES_ON = [("ddp", "fsdp2"), ("fsdp2", "ddp"), ("sharded", "sharded"), ("alone", "fsdp2")]


@pytest.fixture(scope="module")
def kept(on_ranks, fit, tmp_path_factory):
    """A folder with a checkpoint of the first of two epochs by strategy, and runs that went on from them."""
    folder = tmp_path_factory.mktemp("kept")

    def save(rank, world, strategy):
        every = ModelCheckpoint(dirpath=folder / strategy, filename="{epoch}", save_top_k=-1)
        losses, trainer = fit(rank, world, strategy, TASK, callbacks=[every])
        return losses, weights(trainer)

    def work(rank, world):
        for strategy in STRATEGIES:
            save(rank, world, strategy)
        found = {}
        for first, second in GOES_ON:
            losses, trainer = fit(rank, world, second, TASK, resume=folder / first / "epoch=0.ckpt")
            # which is wanted again, whatever an earlier run had thought of it
            assert trainer.strategy.checkpoint_io.resumed == folder / first / "epoch=0.ckpt"
            found[rank, first, second] = losses, weights(trainer)
        return found

    def one_of_two(rank, world):
        losses, trainer = fit(rank, world, "fsdp2", TASK, resume=folder / "sharded" / "epoch=0.ckpt")
        return {("two shards", "one rank"): (losses, weights(trainer))}

    runs = {"undisturbed": save(0, 1, "alone")}
    for found in (*on_ranks(work), *on_ranks(one_of_two, world=1)):
        runs.update(found)
    (folder / "whole").mkdir()
    assert main(["consolidate", *(str(folder / name / "epoch=0.ckpt") for name in ("sharded", "whole"))]) == 0
    for first in ("fsdp2", "whole"):
        losses, trainer = fit(0, 1, "alone", TASK, resume=folder / first / "epoch=0.ckpt")
        runs[first, "alone"] = losses, weights(trainer)
    return folder, runs


def test_a_run_goes_on_under_another_strategy(kept):
    """Three steps under one, three under the other: losses and weights of six under neither."""
    runs = dict(kept[1])
    losses, expected = runs.pop("undisturbed")
    assert len(runs) == 2 * len(GOES_ON) + 3
    for name, (found, parameters) in runs.items():
        assert found == pytest.approx(losses[3:], rel=1e-8), name
        for key, value in expected.items():
            torch.testing.assert_close(parameters[key], value, rtol=1e-8, atol=1e-8)


def test_files_of_all_strategies_are_alike(kept, make_batch):
    """The same keys, the same numbers for the same moments; one made of shards too, and it is a model's file."""
    first, *others = (
        torch.load(kept[0] / name / "epoch=0.ckpt", weights_only=True) for name in ("ddp", "fsdp2", "whole")
    )
    for other in others:
        assert other.keys() == first.keys()
        assert len(other["random_state"]) == 2
        (mine,), (theirs,) = first["optimizer_states"], other["optimizer_states"]
        assert theirs["param_groups"] == mine["param_groups"]
        for number, moments in mine["state"].items():
            for name, value in moments.items():
                torch.testing.assert_close(theirs["state"][number][name], value, rtol=1e-8, atol=1e-12)
    batch = make_batch(4)
    one, other = (clipkit.load(kept[0] / name / "epoch=0.ckpt").double()(batch) for name in ("ddp", "whole"))
    torch.testing.assert_close(one.image, other.image)


def test_folders_of_shards_are_found_and_a_damaged_one_is_not_read(kept, on_ranks, fit, tmp_path):
    found = {entry.path.parent.name: entry for entry in complete_checkpoints(kept[0]) if entry.step == 3}
    assert set(found) == {"alone", *STRATEGIES, "whole"}
    assert all(entry.finite for entry in found.values())
    copied = shutil.copytree(kept[0] / "sharded", tmp_path / "sharded") / "epoch=0.ckpt"
    with next(copied.glob("*.distcp")).open("r+b") as file:
        file.seek(2000)
        file.write(b"x")
    with pytest.raises(OSError, match="is damaged"):
        consolidate(copied, tmp_path / "one.ckpt")

    def work(rank, world):
        with pytest.raises(OSError, match="is damaged"):
            fit(rank, world, "sharded", TASK, resume=copied)
        with pytest.raises(OSError, match=r"clipkit consolidate .*epoch=0\.ckpt FILE"):
            fit(rank, world, "ddp", TASK, resume=kept[0] / "sharded" / "epoch=0.ckpt")

    on_ranks(work)


def test_shards_that_cannot_be_written_leave_what_there_was(on_ranks, fit, tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.strategies.publish_folder", full_at_the_second(publish_folder))

    def work(rank, world):
        best = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=1, monitor="train/loss", mode="max")
        losses, _ = fit(rank, world, "sharded", callbacks=[best], options={"max_epochs": 3})
        return len(losses)

    assert on_ranks(work) == [9, 9]
    assert {entry.path.name for entry in complete_checkpoints(tmp_path)} >= {"epoch=0.ckpt"}
    assert not list(tmp_path.glob(".*"))


def full_at_the_second(publish):
    calls = iter(range(10))

    def publish_or_refuse(*arguments):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(*arguments)

    return publish_or_refuse


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet"])
def test_synchronised_batch_norms_keep_their_activations(name):
    """Two ranks need GPUs for it; alone and in evaluation it is the plain norm."""
    torch.manual_seed(0)
    tower = TimmTower(name, image_size=32)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    other = SyncBatchNorm().apply(copy.deepcopy(tower))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in other.modules())
    for training in (False, True):
        torch.testing.assert_close(other.train(training)(images).pooled, tower.train(training)(images).pooled)
    assert other.state_dict().keys() == tower.state_dict().keys()
    assert SyncBatchNorm().revert(other) is other


def test_a_folder_is_no_file_but_becomes_one(kept):
    folder = kept[0] / "sharded" / "epoch=0.ckpt"
    with pytest.raises(FileNotFoundError, match=r"but a folder: `clipkit consolidate .*epoch=0\.ckpt FILE`"):
        clipkit.load(folder)


def test_the_trainers_flag_takes_them():
    trainer = load_experiment(["emoji"], ["--trainer.sync_batchnorm=true", "--trainer.accelerator=cpu"]).build().trainer
    assert type(trainer._accelerator_connector._layer_sync) is SyncBatchNorm
