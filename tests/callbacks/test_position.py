"""Real trainers, stopped and resumed everywhere, against one that never stopped."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torch import nn

from clipkit.callbacks.position import SamplePosition
from clipkit.data import CaptionDataModule, Flip
from clipkit.tokens import read_tokenizer
from clipkit.types import ArgumentError, InputSpec

ROWS, BATCH, STEPS = 22, 4, 5
SPEC = InputSpec((4, 4), (0.5,) * 3, (0.5,) * 3, "bilinear", read_tokenizer("emoji"), 8, "longest")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    rng, images = np.random.default_rng(0), []
    for _ in range(ROWS):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    captions = [[f"left {i}", f"right {i}"] for i in range(ROWS)]
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(pa.table({"image": images, "captions": captions, "kind": [i % 5 for i in range(ROWS)]}), path)
    return str(path)


class Task(pl.LightningModule):
    """Learns something from each pixel and remembers what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(48, 3)
        self.model.inputs = SPEC
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        pixels = batch.image.float().flatten(1)
        self.seen.append(
            [*batch.concept.tolist(), int(pixels.sum()), int(batch.tokens.sum()), *batch.position.tolist()]
        )
        return (self.model(pixels / 255) - batch.tokens[:, 1:2] / 100).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.model(batch.image.float().flatten(1)).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def run(source, callbacks=(), resume=None, data=None, callback=True, module=None, batch_size=BATCH, **options):
    module = module or Task()
    settings = {
        key: options.pop(key)
        for key in ("workers", "val_fraction", "seed", "concept", "distinct_concepts")
        if key in options
    }
    data = data or CaptionDataModule(source, batch_size=batch_size, transforms=[Flip()], **{"workers": 0, **settings})
    trainer = pl.Trainer(
        **{"max_epochs": 3, "accelerator": "cpu", **options},
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        callbacks=[*callbacks, *([SamplePosition()] if callback else [])],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Lightning warns of a loader that does not resume
        for harmless in (
            "LeafSpec",
            "many workers",
            "exists and is not empty",
            "`list` across ranks is zero",
            "Be aware",
        ):
            warnings.filterwarnings("ignore", f".*{harmless}")
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return module, data


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def rows_of(seen) -> list[int]:
    return [row for batch in seen for row in batch[:BATCH]]


def same_weights(a: Task, b: Task) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Three epochs without a stop, and a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("whole")
    return *run(source, [every_step(folder)]), folder


def test_each_epoch_has_an_order_of_its_own(whole):
    task, data, _ = whole
    epochs = [rows_of(task.seen[i : i + STEPS]) for i in range(0, 3 * STEPS, STEPS)]
    assert len(task.seen) == 3 * STEPS
    assert all(len(set(epoch)) == STEPS * BATCH for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert (data.training.place.epoch, data.position) == (3, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(source, whole, workers):
    task, _ = run(source, workers=workers, max_epochs=2)
    assert task.seen == whole[0].seen[: 2 * STEPS]


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 10, 14])
def test_resumed_after_any_step(source, whole, step):
    task, data = run(source, resume=whole[2] / f"step={step}.ckpt")
    assert task.seen == whole[0].seen[step:]
    assert same_weights(task, whole[0])
    assert (data.training.place.epoch, data.position) == (3, 0)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_resumed_with_workers(source, whole, step):
    task, _ = run(source, resume=whole[2] / f"step={step}.ckpt", workers=2)
    assert task.seen == whole[0].seen[step:]
    assert same_weights(task, whole[0])


@pytest.mark.parametrize("when", [{"save_on_train_epoch_end": True}, {"monitor": "val/loss"}])
def test_resumed_at_the_end_of_an_epoch(source, tmp_path, when):
    options = {"val_fraction": 0.2}  # with sanity checking, and validation at the end of each epoch
    task, _ = run(source, [ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, **when)], **options)
    resumed, _ = run(source, resume=tmp_path / "epoch=0.ckpt", **options)
    steps = len(task.seen) // 3
    assert resumed.seen == task.seen[steps:]
    assert same_weights(resumed, task)


@pytest.mark.parametrize(("accumulated", "step", "batches"), [(1, 3, 3), (2, 1, 2)])
def test_resumed_from_validation_within_an_epoch(source, tmp_path, accumulated, step, batches):
    options = {"val_fraction": 0.2, "val_check_interval": 3, "accumulate_grad_batches": accumulated}
    saver = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    task, _ = run(source, [saver], **options)
    resumed, _ = run(source, resume=tmp_path / f"step={step}.ckpt", **options)
    assert resumed.seen == task.seen[batches:]
    assert same_weights(resumed, task)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_by_max_steps_within_an_epoch(source, whole, tmp_path, workers):
    first, _ = run(source, [ModelCheckpoint(tmp_path, save_last=True)], max_epochs=-1, max_steps=7, workers=workers)
    assert first.seen == whole[0].seen[:7]
    second, _ = run(source, resume=tmp_path / "last.ckpt", max_epochs=-1, max_steps=15, workers=workers)
    assert second.seen == whole[0].seen[7:]
    assert same_weights(second, whole[0])


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def test_stopped_early_within_an_epoch(source, whole, tmp_path):
    first, _ = run(source, [StopAt(7), ModelCheckpoint(tmp_path, save_last=True)])
    assert first.seen == whole[0].seen[:7]
    second, _ = run(source, resume=tmp_path / "last.ckpt")
    assert second.seen == whole[0].seen[7:12]  # the trainer counts the stopped epoch as its second: one is left


class Crash(pl.Callback):
    """Saves in the middle of it all and stops."""

    def __init__(self, batch: int, path: Path) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(module.seen) == self.batch:
            raise RuntimeError("crash")

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("batch", [2, 3, 5, 6, 7])
def test_accumulated_batches_are_not_lost(source, tmp_path, batch):
    whole, _ = run(source, accumulate_grad_batches=2, max_epochs=2)
    with pytest.raises(RuntimeError, match="crash"):
        run(source, [Crash(batch, tmp_path / "crash.ckpt")], accumulate_grad_batches=2, max_epochs=2)
    resumed, _ = run(source, resume=tmp_path / "crash.ckpt", accumulate_grad_batches=2, max_epochs=2)
    # Steps are taken after two batches each: the last one before the crash is where it goes on.
    begin = batch - batch % 2
    assert resumed.seen == whole.seen[begin:]
    assert same_weights(resumed, whole)


def test_reloaded_every_epoch(source, whole):
    task, _ = run(source, reload_dataloaders_every_n_epochs=1, workers=1)
    assert task.seen == whole[0].seen


def test_a_limited_epoch_goes_on_in_the_next(source, whole):
    task, _ = run(source, limit_train_batches=3, max_epochs=4)
    assert task.seen == whole[0].seen[:12]


def test_overfitting_takes_the_same_batches_again(source):
    task, _ = run(source, overfit_batches=2, max_epochs=3)
    epochs = [rows_of(task.seen[i : i + 2]) for i in (0, 2, 4)]
    assert epochs[0] == epochs[1] == epochs[2]


class Late(SingleDeviceStrategy):
    """Restores late, as FSDP does: after the optimiser asked how many steps there will be, and so for the loader."""

    restore_checkpoint_after_setup = True


@pytest.mark.parametrize("workers", [0, 1])
def test_restored_after_the_loader_is_made(source, whole, workers):
    class Asking(Task):
        def configure_optimizers(self):
            assert self.trainer.estimated_stepping_batches == 3 * STEPS
            return super().configure_optimizers()

    checkpoint = whole[2] / "step=8.ckpt"
    task, _ = run(source, resume=checkpoint, module=Asking(), strategy=Late("cpu"), accelerator="auto", workers=workers)
    assert task.seen == whole[0].seen[8:]
    assert same_weights(task, whole[0])


def test_a_second_fit_begins_anew(source, whole):
    _, data = run(source, max_epochs=1)
    again, _ = run(source, data=data, max_epochs=2)
    assert again.seen == whole[0].seen[: 2 * STEPS]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_the_callback_epochs_still_differ(source, whole, workers):
    task, _ = run(source, callback=False, workers=workers)
    assert task.seen == whole[0].seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2}, r"takes 2 samples x 1, but 4 x 1 in the checkpoint; 4 with .*batches=1 restores it"),
        ({"batch_size": 2, "accumulate_grad_batches": 2}, r"takes 2 samples x 2, .*; 4 with .*batches=1 restores it"),
        ({"accumulate_grad_batches": 3}, r"takes 4 samples x 3, .*; 4 with .*batches=1 restores it"),
    ],
)
def test_another_step_is_refused_before_the_first(source, whole, options, message):
    task = Task()
    with pytest.raises(ArgumentError, match=message):
        run(source, resume=whole[2] / "step=3.ckpt", module=task, **options)
    assert task.seen == []


def test_an_epoch_is_a_whole_number_of_steps(source):
    task, data = run(source, accumulate_grad_batches=2, max_epochs=2)
    assert len(task.seen) == 8  # 22 rows make 5 batches, of which 4 make 2 steps
    assert (data.training.place.epoch, data.position) == (2, 0)


def test_other_data_begins_its_epoch_anew(source, whole):
    with pytest.raises(UserWarning, match="seed differs"):  # a warning, made an error by `run`
        run(source, resume=whole[2] / "step=3.ckpt", seed=1)
    data = CaptionDataModule(source, batch_size=BATCH, seed=1)
    with pytest.warns(UserWarning, match="seed differs"):
        data.load_state_dict({**whole[1].state_dict(), "epoch": 2, "position": 12})
    assert (data.training.place.epoch, data.position) == (2, 0)


def test_distinct_concepts_resumed(source, tmp_path):
    options = {"concept": "kind", "distinct_concepts": True, "max_epochs": 2}
    task, _ = run(source, [every_step(tmp_path)], **options)
    assert all(len(set(batch[:BATCH])) == BATCH for batch in task.seen)
    resumed, _ = run(source, resume=tmp_path / "step=6.ckpt", workers=2, **options)
    assert resumed.seen == task.seen[6:]


def test_other_data_modules_are_left_alone(source):
    data = CaptionDataModule(source, batch_size=BATCH, workers=0)
    data.inputs = SPEC
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SamplePosition()],
    )  # fmt: skip
    trainer.fit(Task(), data.train_dataloader())
    assert data.position == 0


class CrashAt(pl.Callback):
    """Fails before a step, so that what is saved of the one before is saved as at any other."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


@pytest.mark.parametrize("first", [STEPS - 1, STEPS, STEPS + 1])
def test_resumed_around_the_end_of_an_epoch_and_again_within_the_next(whole, source, tmp_path, first):
    undisturbed = whole[0]
    with pytest.raises(RuntimeError, match="crash"):
        run(source, [every_step(tmp_path), CrashAt(first)])
    run(source, [every_step(tmp_path)], resume=tmp_path / f"step={first}.ckpt")
    for second in (STEPS + 2, STEPS + 3):
        task, data = run(source, resume=tmp_path / f"step={second}.ckpt")
        assert task.seen == undisturbed.seen[second:]
        assert same_weights(task, undisturbed)
        assert (data.training.place.epoch, data.position) == (3, 0)
