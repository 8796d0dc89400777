"""Real fits in children of a fork server that has made the heavy imports, killed when told to."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Image

from clipkit.cli.main import main
from clipkit.data import load_rows
from clipkit.tracking import LogPictures

# It imports once, and its children have nothing of what other tests left behind.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "clipkit.cli.session",
        "clipkit.cli.fit",
        "clipkit.cli.assembly",
        "clipkit.evaluation",
        "timm",
        "transformers",
        "matplotlib.pyplot",
        "s3fs",  # which Lightning imports where they are installed
        "gcsfs",
    ]
)

TINY = (Path(__file__).parents[0] / "tiny_model.yaml").read_text(encoding="utf-8")
EXPERIMENT = (
    TINY
    + """data:
  train: emoji/concepts
  val: emoji/cells
  caption: name
  batch_size: 16
  workers: 0
  transforms: [{class_path: clipkit.data.RandomAffine}]
trainer:
  max_epochs: 3
  limit_train_batches: 10
  limit_val_batches: 2
  accelerator: cpu
  logger: false
  default_root_dir: .
  enable_progress_bar: false
  callbacks:
    - {class_path: recorder.Recorder}
    - {class_path: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: kept, every_n_train_steps: 2, save_last: true}
"""
)
RECORDER = '''
import json, os, signal, threading
import lightning.pytorch as pl
from pathlib import Path

class Recorder(pl.Callback):
    """Appends what each rank saw and lost to a file that a kill leaves whole lines in; has all killed when told to."""

    def __init__(self):
        told = Path("kill.json")
        self.kill, self.steps = json.loads(told.read_text()) if told.is_file() else None, 0

    def _write(self, trainer, **line):
        with open(f"record-{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\\n")
        self.steps += "place" in line
        if self.kill and trainer.global_rank == 0 and self.steps >= self.kill["steps"] and self._is_time(trainer, line):
            end = lambda: os.killpg(os.getpgid(0), signal.SIGKILL)
            if self.kill["delay"]:
                threading.Timer(self.kill["delay"], end).start()  # whatever it does then
            else:
                end()
            self.kill = None

    def _is_time(self, trainer, line):
        if "validating" in line:
            return self.kill["when"] == line["batch"]
        if "place" not in line:
            return False
        within = (line["place"][1] + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch
        return self.kill["when"] == "any" or (self.kill["when"] == "within a step" and within)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = float(outputs["loss"]).hex()
        seen = [batch.position.tolist(), batch.concept.tolist()]
        self._write(trainer, place=[trainer.current_epoch, batch_idx], positions=seen, loss=loss)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *_):
        self._write(trainer, validating=trainer.global_step, batch=batch_idx)

    def on_train_end(self, trainer, pl_module):
        self._write(trainer, ended=trainer.global_step, figures=trainer.datamodule.figures())
'''


def _fit(folder: Path, words: list[str]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in the real command; here loaders would use the server
    os.setsid()  # its loader's workers and its ranks end with it
    torch.set_num_threads(1)
    os.chdir(folder)
    LogPictures._draw = lambda *_: None  # seconds of drawing that nothing here is about
    sys.stdout = sys.stderr = Path("said.txt").open("a", buffering=1)  # noqa: SIM115  # closed by the end
    os._exit(main(["fit", "-c", "experiment.yaml", "--resume", "auto", *words]))


def write_shards(folder: Path, sizes: Sequence[int], apart: int) -> None:
    """Emoji in tar shards of these many rows, so far apart in the embedded set."""
    folder.mkdir()
    rows = load_rows("emoji/train").cast_column("image", Image(decode=False))
    numbers = iter(range(0, len(rows), apart))
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / f"s-{shard}.tar", "w") as tar:
            for row in (rows[next(numbers)] for _ in range(size)):
                for suffix, data in (("png", row["image"]["bytes"]), ("txt", row["name"].encode())):
                    info = tarfile.TarInfo(f"{row['hexcode']}-{row['style']}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


class Command(subprocess.Popen):
    """The real command, with the face of a forked child."""

    def join(self, seconds: float | None = None) -> None:
        self.wait(seconds)

    @property
    def exitcode(self) -> int:
        return self.returncode

    def is_alive(self) -> bool:
        return self.poll() is None


class Runs:
    """Starts, watches and kills runs in one folder."""

    def __init__(self, folder: Path, words: list[str], real: bool = False, experiment: str = EXPERIMENT) -> None:
        self.real = real
        folder.mkdir()
        shards = folder.parent / "shards"
        if not shards.exists():
            write_shards(shards, (90, 1, 60, 120, 30, 80, 100), 11)
            damaged = shards / "s-2.tar"
            damaged.write_bytes(damaged.read_bytes()[:-30_000])
        (folder / "experiment.yaml").write_text(experiment)
        (folder / "recorder.py").write_text(RECORDER)
        self.folder, self.words = folder, words

    def start(self):
        if self.real:
            with (self.folder / "said.txt").open("a") as said:
                words = [
                    sys.executable,
                    "-m",
                    "clipkit",
                    "fit",
                    "-c",
                    "experiment.yaml",
                    "--resume",
                    "auto",
                    *self.words,
                ]
                own = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many threads add up in the same order
                return Command(words, cwd=self.folder, stdout=said, stderr=said, start_new_session=True, env=own)
        child = SERVER.Process(target=_fit, args=(self.folder, self.words))
        child.start()
        return child

    def finish(self) -> None:
        child = self.start()
        child.join(240)
        assert child.exitcode == 0, (self.folder / "said.txt").read_text()[-3000:]

    def lines(self, rank: int = 0) -> list[dict]:
        file = self.folder / f"record-{rank}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def kill_after(self, steps: int, when: str | int = "any", delay: float = 0.0) -> dict:
        """SIGKILL the whole group so many batches later, or after these `within a step`, or at a batch of validation.

        Returns:
            The last that its rank 0 recorded.
        """
        (self.folder / "kill.json").write_text(json.dumps({"steps": steps, "when": when, "delay": delay}))
        child = self.start()
        child.join(240)
        assert child.exitcode == -signal.SIGKILL, (self.folder / "said.txt").read_text()[-3000:]
        (self.folder / "kill.json").unlink()
        return self.lines()[-1]

    def seen(self, rank: int = 0) -> dict[tuple[int, int], set[str]]:
        """Epoch and batch to all that was ever recorded of it."""
        found: dict[tuple[int, int], set[str]] = {}
        for line in self.lines(rank):
            if "place" in line:
                found.setdefault(tuple(line["place"]), set()).add(f"{line['positions']} {line['loss']}")
        return found
