"""Two real processes share the data: every rank makes as many steps, and neither ranks nor workers change a step."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter

import pytest
from PIL import Image

from clipkit.data import CaptionDataModule, Flip, RandomResizedCrop
from clipkit.tokens import read_tokenizer
from clipkit.tracking.history import read_history
from clipkit.types import InputSpec

from .killing import Runs, write_shards

SIZES = (0, 1, 7, 1000)
SPEC = InputSpec((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", read_tokenizer("emoji"), 8, "longest")


def write_damaged(folder, count, damaged):
    """Captioned pictures, some of them none."""
    folder.mkdir()
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(file, "PNG")
        (folder / f"{number}.png").write_bytes(b"<html>" if number in damaged else file.getvalue())
        (folder / f"{number}.txt").write_text(f"red {number}")


def test_uneven_shards_over_two_ranks_with_two_workers(tmp_path):
    """The real command under DDP: both ranks end at the same step, and every row of every shard was trained on.

    What is damaged in the validation set is counted over both.
    """
    write_shards(tmp_path / "uneven", SIZES, 7)
    write_damaged(tmp_path / "val", 12, (0, 5, 6))
    steps, batch = 20, 100
    words = [
        "--data.train=../uneven/s-{0..3}.tar", "--data.caption=null", "--data.epoch_steps=10", "--data.workers=2",
        f"--data.batch_size={batch}", "--trainer.max_epochs=2", "--trainer.limit_train_batches=1.0",
        "--data.val=../val",
        "--trainer.devices=2", "--trainer.strategy=ddp_fork", "--trainer.log_every_n_steps=1",
        "--trainer.callbacks=[{class_path: recorder.Recorder}]", "--metrics=metrics.jsonl",
    ]  # fmt: skip
    runs = Runs(tmp_path / "run", words)
    runs.finish()
    seen, repeated = Counter(), 0
    for rank in (0, 1):
        *lines, end = runs.lines(rank)
        batches = [line for line in lines if "place" in line]  # the others are of validation
        assert [line["place"] for line in batches] == [[epoch, i] for epoch in (0, 1) for i in range(10)]
        assert end["ended"] == steps
        assert {len(line["positions"][1]) for line in batches} == {batch}
        seen.update(concept for line in batches for concept in line["positions"][1])
        repeated += end["figures"]["data/repeated"]
    assert len(seen) == sum(SIZES)
    assert repeated == 2 * steps * batch - sum(SIZES)
    curves = read_history(runs.folder / "metrics.jsonl").curves
    assert list(curves["data/repeated"].values())[-1] == repeated
    assert list(curves["val/skipped_not_an_image"].values()) == [3, 3]


WORLDS, WORKERS, STEPS, GLOBAL = (1, 2), (0, 2, 4), 4, 12


def samples(world: int, workers: int) -> list[dict]:
    """Position to concept and pixels of what this rank contributes to each global step, over an end of an epoch."""
    options = {"caption": "name", "workers": workers, "transforms": [RandomResizedCrop((0.5, 1.0)), Flip()]}
    data = CaptionDataModule("emoji/concepts", batch_size=GLOBAL // world, **options)
    data.inputs = SPEC
    loader, found = data.train_dataloader(), []
    data.advance(len(loader) - STEPS // 2)
    for _ in range(2):
        for batch in itertools.islice(loader, STEPS // 2):
            data.advance(1)
            shown = zip(batch.concept.tolist(), batch.image.sum(dim=(1, 2, 3)).tolist(), strict=True)
            found.append(dict(zip(batch.position.tolist(), shown, strict=True)))
    return found


@pytest.fixture(scope="module")
def steps(on_ranks):
    """World and workers to the samples of each global step."""
    found = {}
    for world in WORLDS:
        ranks = on_ranks(lambda rank, world: {workers: samples(world, workers) for workers in WORKERS}, world)
        for workers in WORKERS:
            shares = [rank[workers] for rank in ranks]
            assert all(len(share[i]) == GLOBAL // world for share in shares for i in range(STEPS))
            found[world, workers] = [{k: v for share in shares for k, v in share[i].items()} for i in range(STEPS)]
    return found


@pytest.mark.parametrize(("world", "workers"), list(itertools.product(WORLDS, WORKERS)))
def test_every_global_step_has_the_same_samples(steps, world, workers):
    assert [len(step) for step in steps[world, workers]] == [GLOBAL] * STEPS
    assert steps[world, workers] == steps[1, 0]
    assert len({json.dumps(step, sort_keys=True) for step in steps[1, 0]}) == STEPS
