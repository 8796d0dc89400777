"""Every shipped experiment through the command line: checked, one optimiser step, a checkpoint, loaded, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import clipkit
from clipkit.cli.config import load_experiment, shipped_experiments, shipped_sweeps
from clipkit.cli.main import main
from clipkit.cli.sweep_plan import read_sweep

SHORT = (
    "--trainer.max_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.precision=32-true",
    "--trainer.logger=false",
    "--trainer.default_root_dir=.",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_val_batches=1",
    "--data.workers=0",
    "--data.batch_size=8",
)

# What takes two cores too long is made smaller: depth, width, pixels, tokens, never the kind of model.
CLIP_TEXT = ("--model.model.text.layers=1", "--model.model.text.vocab_size=null")  # the tokenizer's 8,192
NARROW = "--model.model.vision.timm_kwargs={depth: 1, embed_dim: 192, num_heads: 3}"
FEWER_TASKS = ("--trainer.callbacks.0.tasks=[emoji/concepts]", "--trainer.callbacks.1.monitor=emoji/concepts/acc1")
FEW = """
few:
  class_path: clipkit.evaluation.ZeroShotEvaluator
  rows: emoji/concepts
  label: name
  classes_from: [emoji/concepts]
"""
SMALLER: dict[str, tuple[str, ...]] = {
    "emoji": FEWER_TASKS,
    "emoji_siglip": FEWER_TASKS,
    "icons": (
        "--data.train=emoji/cells",  # built on demand, not shipped
        "--data.caption=name",
        "--model.model.vision.name=resnet10t",
        "--model.model.vision.image_size=32",
        "--model.model.text.config.num_hidden_layers=1",
    ),
    "vit_b32": ("--model.model.vision.image_size=64", NARROW, *CLIP_TEXT),
    "rn50": ("--model.model.vision.image_size=32", *CLIP_TEXT),
    "vit_l14": ("--model.model.vision.image_size=28", NARROW, *CLIP_TEXT),
    "siglip_b16": (
        "--model.model.vision.image_size=64",
        "--model.model.vision.timm_kwargs={depth: 1}",
        "--model.model.text.context_length=16",  # all captions are padded to it
        *CLIP_TEXT,
    ),
    "lit_b16": (
        "--model.model.vision.pretrained=false",  # the weights are on a hub
        "--model.model.vision.image_size=64",
        "--model.model.vision.timm_kwargs={depth: 1}",
        *CLIP_TEXT,
    ),
    "convnext_distilbert": (
        "--model.model.vision.name=convnext_atto",
        "--model.model.vision.image_size=32",
        "--model.model.text.config.n_layers=1",
        "--model.model.text.config.dim=96",
        "--model.model.text.config.hidden_dim=96",
    ),
}

PARAMETERS = {"vit_b32": 151_277_313, "rn50": 102_007_137, "vit_l14": 427_616_513}


def test_every_shipped_experiment_is_tested() -> None:
    assert set(shipped_experiments()) == set(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_yaml_is_short_and_says_what_to_expect(name: str) -> None:
    lines = shipped_experiments()[name].read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert len([line for line in lines if line.strip() and not line.lstrip().startswith("#")]) <= 30
    assert any(f"clipkit fit -c {name}" in line for line in head)
    assert any(line.startswith("# Hardware:") for line in head)
    assert any(line.startswith("# Expect") for line in head)


@pytest.mark.parametrize("name", SMALLER)
def test_config_is_valid_as_it_stands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", name, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"] == "clipkit.tasks.ContrastiveTask"


@pytest.mark.parametrize("name", SMALLER)
def test_one_step_checkpoint_load_evaluate(
    name: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if name != "emoji":
        request.getfixturevalue("no_pictures")
    code = main(["fit", "-c", name, *SMALLER[name], *SHORT])
    assert code == 0, capsys.readouterr().err
    (checkpoint, *_) = sorted(Path.cwd().rglob("*.ckpt"))
    model = clipkit.load(checkpoint)
    assert model.encode_text(["a red heart"]).shape[0] == 1
    Path("few.yaml").write_text(FEW, encoding="utf-8")  # among 95 names, not 1,914
    command = ["evaluate", str(checkpoint), "--tasks", "few", "--benchmarks", "few.yaml", "--json", "out.json"]
    assert main(command) == 0
    results = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert 0 <= results["few"]["acc1"] <= results["few"]["acc5"] <= 1


@pytest.mark.parametrize("name", shipped_sweeps())
def test_a_sweep_says_what_to_expect(name: str) -> None:
    lines = shipped_sweeps()[name].read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert any(f"clipkit sweep -c {name}" in line for line in head)
    assert any(line.startswith("# Hardware:") for line in head)
    assert any(line.startswith("# Expect") for line in head)


def test_the_sweep_of_objectives_changes_the_objective_and_the_batches_alone() -> None:
    sweep = read_sweep("objectives")  # which checks every run
    assert len(sweep.runs) == len({run.key for run in sweep.runs}) == 4 * 3
    configs = {run.setting: run.config for run in sweep.runs}
    plain, sigmoid, multi, distinct = configs.values()
    names = [config["model"]["objective"]["class_path"].split(".")[-1] for config in configs.values()]
    assert names == ["InfoNCE", "Sigmoid", "InfoNCE", "InfoNCE"]
    batches = [(config["data"].pop("concept"), config["data"].pop("distinct_concepts")) for config in configs.values()]
    assert batches == [("row", False), ("row", False), ("concept", False), ("concept", True)]
    assert plain == multi == distinct
    for config in (plain, sigmoid):
        del config["model"]["objective"], config["model"]["model"]["head"]
    assert plain == sigmoid


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_the_paper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawn in ("normal_", "uniform_", "erfinv_"):  # numbers that only take time
        monkeypatch.setattr(torch.Tensor, drawn, lambda self, *_, **__: self)
    experiment = load_experiment(
        [name], ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    )
    task, *_ = experiment.build()
    assert sum(p.numel() for p in task.model.parameters()) == PARAMETERS[name]
