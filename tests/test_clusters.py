"""Two processes as torchrun and as SLURM start them, and what a signal of SLURM's leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clipkit.cli.main import main
from clipkit.strategies import FSDP2

TINY = (Path(__file__).parents[0] / "tiny_model.yaml").read_text(encoding="utf-8")
EXPERIMENT = (
    TINY
    + """  trainable: {text: none}
data: {train: emoji/concepts, caption: name, batch_size: 16, workers: 1}
trainer:
  accelerator: cpu
  devices: 2
  max_steps: 30
  logger: false
  default_root_dir: .
  enable_progress_bar: false
  gradient_clip_val: 1.0
  callbacks:
    - {class_path: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: kept, every_n_train_steps: 10, save_last: true}
"""
)
SHARDED = [
    "--trainer.strategy.class_path=clipkit.strategies.FSDP2",
    "--trainer.strategy.save_distributed_checkpoint=true",
]


def test_torchrun(root, own_folder):
    Path("experiment.yaml").write_text(EXPERIMENT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    fit = ["-m", "clipkit", "fit", "-c", "experiment.yaml", "--trainer.max_steps=3", "--trainer.strategy=ddp"]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([*run, *fit], env=own, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(next(Path("kept").glob("*.ckpt")), weights_only=True)
    assert saved["global_step"] == 3
    assert len(saved["random_state"]) == 2  # of two ranks, not of one run twice
    assert saved["CaptionDataModule"]["samples"] == 32


def _as_task(rank: int, port: int, words: list[str]) -> None:
    slurm = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0, "PROCID": rank, "LOCALID": rank, "JOB_ID": 7}
    os.environ.update({f"SLURM_{name}": str(value) for name, value in slurm.items()})
    os.environ.update(SLURM_JOB_NAME="clip", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(f"said-{rank}.txt").open("a", buffering=1)  # noqa: SIM115  # closed by the end
    os._exit(main(["fit", "-c", "experiment.yaml", "--resume", "auto", *words]))


def srun(folder: Path, words: list[str], signum: int | None = None, experiment: str = EXPERIMENT) -> list[int]:
    """Exit codes of two tasks, one of which gets a signal once something is saved."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    Path("experiment.yaml").write_text(experiment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    tasks = [context.Process(target=_as_task, args=(rank, port, words)) for rank in range(2)]
    for task in tasks:
        task.start()
    if signum is not None:
        until = time.monotonic() + 120
        while not (folder / "kept" / "last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(tasks[1].pid, signum)
    for task in tasks:
        task.join(120)
        task.kill()
    return [task.exitcode for task in tasks]


def test_fsdp2_is_one_line(own_folder, monkeypatch):
    """With a frozen tower; its checkpoint is one file, and the run goes on from it."""
    share_out = FSDP2.setup_environment

    def told(self):
        print("sharing out the weights")
        share_out(self)

    monkeypatch.setattr(FSDP2, "setup_environment", told)
    line = "  strategy: {class_path: clipkit.strategies.FSDP2}\n"
    weights = []
    for steps in (3, 6):
        ended = srun(own_folder, [f"--trainer.max_steps={steps}"], experiment=EXPERIMENT + line)
        said = Path("said-0.txt").read_text()
        assert ended == [0, 0], said
        assert said.count("sharing out the weights") == len(weights) + 1
        saved = torch.load("kept/last.ckpt", weights_only=True)
        assert saved["global_step"] == steps
        assert (len(saved["random_state"]), saved["CaptionDataModule"]["samples"]) == (2, 32)
        weights.append(saved["state_dict"])
    assert "going on from kept/last.ckpt" in said
    for name, value in weights[0].items():
        assert value.isfinite().all()
        if name.startswith("model.text.") or name == "model.vision.backbone.patch_embed.proj.weight":
            assert torch.equal(value, weights[1][name]) == name.startswith("model.text."), name


@pytest.mark.nightly  # six processes of real commands
def test_slurms_warning_stops_all_tasks_saved_and_the_job_goes_on(own_folder):
    assert srun(own_folder / "whole", SHARDED) == [0, 0]
    folder = own_folder / "stopped"
    codes = srun(folder, SHARDED, signal.SIGUSR1)
    said = (folder / "said-1.txt").read_text()
    assert sorted(codes) == [128 + signal.SIGUSR1, 128 + signal.SIGTERM], (
        said
    )  # the one that got it, the one that did not
    assert (folder / "kept" / "interrupted.ckpt" / "meta.pt").is_file()
    assert not list(folder.glob("hpc_ckpt*"))
    assert srun(folder, SHARDED) == [0, 0], (folder / "said-0.txt").read_text()
    assert "going on from kept/interrupted.ckpt" in (folder / "said-0.txt").read_text()
    weights = []
    for run in ("whole", "stopped"):
        os.chdir(own_folder / run)
        assert main(["consolidate", "kept/last.ckpt", "one.ckpt"]) == 0
        weights.append(torch.load("one.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(("code", "requeued", "ends"), [(0, False, 0), (1, False, 1), (138, True, 0), (143, True, 0)])
def test_the_sbatch_file(root, own_folder, code, requeued, ends):
    """With stand-ins for SLURM's commands."""
    tools = {"srun": f'echo "$@" > srun.txt; exit {code}', "scontrol": 'echo "$@" > scontrol.txt'}
    for name, text in tools.items():
        tool = own_folder / name
        tool.write_text(f"#!/bin/bash\n{text}\n")
        tool.chmod(0o755)
    own = {**os.environ, "PATH": f"{own_folder}:{os.environ['PATH']}"}
    own |= {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_ID": "42"}
    words = ["-c", "emoji", "--data.batch_size=64"]
    done = subprocess.run(["bash", root / "docs" / "slurm.sbatch", *words], env=own, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (ends, "")
    asked = Path("srun.txt").read_text().split()
    assert asked == ["clipkit", "fit", *words, "--trainer.num_nodes=2", "--trainer.devices=8", "--resume", "auto"]
    assert Path("scontrol.txt").exists() == requeued
    assert not requeued or Path("scontrol.txt").read_text().split() == ["requeue", "42"]
