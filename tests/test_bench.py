"""The speeds that docs/benchmarks.md tells, printed as rows of its tables; nothing is asserted of a clock."""

from __future__ import annotations

import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

pytestmark = pytest.mark.bench


@pytest.fixture
def tell(capsys) -> Callable[[str, str], None]:
    """Print a row past pytest's capture."""

    def row(what: str, figure: str) -> None:
        with capsys.disabled():
            print(f"\n| {what} | {figure} |", end="")

    return row


@pytest.fixture(scope="module")
def experiment():
    from clipkit.cli.config import load_experiment

    return load_experiment(["emoji"], ["--trainer.logger=false", "--trainer.callbacks=[]"])


def seconds(command: list[str], times: int = 7) -> float:
    """Median wall time of a command."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def rate(steps: int, images: int, step: Callable[[], object]) -> float:
    """Images a second, two steps of warm-up left out."""
    step(), step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * images / (time.perf_counter() - start)


def test_the_machine(tell):
    tell("machine", f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


def test_help(tell):
    bare = seconds([sys.executable, "-c", "pass"])
    helped = seconds([sys.executable, "-m", "clipkit", "--help"])
    tell("`clipkit --help`", f"{1000 * helped:.0f} ms, {helped / bare:.1f} times a bare interpreter")


def test_import(tell):
    tell("`import clipkit`", f"{1000 * seconds([sys.executable, '-c', 'import clipkit']):.0f} ms")


def test_loading(tell, experiment):
    task, data, _ = experiment.build()
    data.inputs, data.workers = task.model.inputs, 0
    batches = iter(data.train_dataloader())
    tell("embedded set to batches, one process", f"{rate(8, data.batch_size, lambda: next(batches)):.0f} images/s")


def test_training_steps(tell, experiment):
    task, data, _ = experiment.build()
    data.inputs, data.workers = task.model.inputs, 0
    batches = itertools.cycle(list(itertools.islice(data.train_dataloader(), 4)))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.objective(task.model(batch), batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    tell("`emoji` steps, bf16, batch 256, data in memory", f"{rate(8, data.batch_size, step):.0f} images/s")


def test_what_patch_dropout_saves(tell):
    """Half the patches, forward and backward: the saving in time as a share of that in counted operations."""
    from torch.utils.flop_counter import FlopCounterMode

    from clipkit.benchmarking.timing import interleaved
    from clipkit.towers import TimmTower

    images = torch.randint(0, 256, (16, 3, 224, 224), dtype=torch.uint8)
    towers = [TimmTower("vit_small_patch16_224", patch_drop=share).train() for share in (0.0, 0.5)]

    def counted(tower: TimmTower) -> int:
        with FlopCounterMode(display=False) as counter:
            tower(images).pooled.square().sum().backward()
        return counter.get_total_flops()

    def timed(tower: TimmTower) -> float:
        start = time.perf_counter()
        tower(images).pooled.square().sum().backward()
        return time.perf_counter() - start

    flops = [counted(tower) for tower in towers]
    taken = interleaved({"all": lambda: timed(towers[0]), "half": lambda: timed(towers[1])}, 9)
    whole, half = (statistics.median(taken[side]) for side in ("all", "half"))
    saved, most = 1 - half / whole, 1 - flops[1] / flops[0]
    tell("patch dropout of a half, ViT-S/16: time saved; of operations saved", f"{saved:.0%}; {saved / most:.0%}")


def test_first_batch_after_a_resume(tell, experiment, tmp_path):
    """At 90 % of an epoch of 100,000 rows, against the very first; both from a data module that is made anew."""
    from datasets import concatenate_datasets

    from clipkit.data import CaptionDataModule, load_rows

    concatenate_datasets([load_rows("emoji")] * 13).save_to_disk(tmp_path / "many")
    task = experiment.build()[0]

    def first(resumed: bool) -> float:
        start = time.perf_counter()
        data = CaptionDataModule(str(tmp_path / "many"), caption="name", batch_size=256, workers=1)
        data.inputs = task.model.inputs
        if resumed:
            place = len(data.train_rows) * 9 // 10 // 256 * 256
            data.load_state_dict({**data.state_dict(), "position": place})
        next(iter(data.train_dataloader()))
        return time.perf_counter() - start

    taken = [(first(False), first(True)) for _ in range(5)]
    cold, resumed = (statistics.median(column) for column in zip(*taken, strict=True))
    tell("first batch of 100,000 rows; resumed at 90 % of the epoch", f"{cold:.2f} s; {resumed:.2f} s")
