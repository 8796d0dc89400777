"""``clipkit evaluate``, called in this process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import clipkit
from clipkit.cli.main import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model that has learned nothing, in a file."""
    from clipkit.heads import ContrastiveHead
    from clipkit.models import DualEncoder
    from clipkit.towers import BagOfWordsTower, TimmTower

    torch.manual_seed(0)
    vision, text = TimmTower("test_resnet", image_size=16), BagOfWordsTower(width=16)
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    clipkit.save(DualEncoder(vision, text, lambda image, words: ContrastiveHead(image, words, 8)), path)
    return path


def test_table_and_json_are_what_the_evaluators_say(checkpoint, capsys):
    from clipkit.data import load_rows
    from clipkit.evaluation import make_evaluator, read_tasks

    load_rows("emoji/cells").select(range(0, 800, 40)).to_parquet("few.parquet")
    with open("few.yaml", "w", encoding="utf-8") as file:
        file.write("few: {class_path: clipkit.evaluation.ZeroShotEvaluator, rows: few.parquet, label: name}\n")
    tasks, rest = ["few", "emoji/concepts"], ["--benchmarks", "few.yaml", "--json", "out.json", "--device", "cpu"]
    assert main(["evaluate", str(checkpoint), "--tasks", *tasks, *rest]) == 0
    few = make_evaluator(read_tasks(["few.yaml"])["few"])(clipkit.load(checkpoint))
    with open("out.json", encoding="utf-8") as file:
        written = json.load(file)
    assert list(written) == tasks
    assert written["few"] == few
    assert list(few) == ["acc1", "acc5", "mean_per_class"]
    assert list(written["emoji/concepts"]) == [*few, *(f"{name}_among_heldout" for name in few)]
    printed = capsys.readouterr().out
    for figures in written.values():
        assert all(name in printed and f"{value:.4f}" in printed for name, value in figures.items())


def test_a_benchmark_of_ones_own(checkpoint, own_folder, capsys):
    (own_folder / "counting.py").write_text("def parameters():\n    return lambda model: {'parameters': 7.0}\n")
    (own_folder / "mine.yaml").write_text("mine/size: {class_path: counting.parameters}\n")
    command = ["evaluate", str(checkpoint), "--tasks", "mine/size", "--benchmarks", "mine.yaml"]
    assert main(command) == 2
    assert "trust" in capsys.readouterr().err
    assert main([*command, "--trust", "counting"]) == 0
    assert "7.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CHECKPOINT", "--tasks", "emoji/cell"], "did you mean 'emoji/cells'"),
        (["nowhere.ckpt", "--tasks", "emoji/cells"], "there is no file nowhere.ckpt"),
        (["lost.ckpt", "--tasks", "emoji/cells"], "Did you mean last.ckpt?"),
        (["no/folder/last.ckpt", "--tasks", "emoji/cells"], "there is no file no/folder/last.ckpt"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--json", "no/out.json"], "there is no folder no"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--benchmarks", "no.yaml"], "there is no file 'no.yaml'"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--trust", "no_such_module"], "no_such_module"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--device", "abacus"], "--device"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--batch-size", "0"], "0 is less than 1"),
        (["CHECKPOINT", "--tasks", "emoji/cells", "--batch-size", "many"], "batch-size"),
        (["CHECKPOINT"], "--tasks"),
    ],
)
def test_a_mistake_is_one_paragraph_and_2_before_the_model_is_loaded(
    checkpoint, own_folder, capsys, monkeypatch, words, message
):
    (own_folder / "last.ckpt").touch()
    monkeypatch.setattr("clipkit.models.saving.load", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    assert main(["evaluate", *(str(checkpoint) if word == "CHECKPOINT" else word for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert len(said) < 500
    assert "Traceback" not in said
    assert "\n\n" not in said.strip()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "torch", "zip"])
def test_a_file_that_is_no_checkpoint_is_named(own_folder, capsys, checkpoint, content):
    broken = own_folder / "broken.ckpt"
    if content == "torch":
        torch.save({"state_dict": {}}, broken)
    elif content == "zip":
        broken.write_bytes(checkpoint.read_bytes()[:-200])
    else:
        broken.write_bytes(content)
    assert main(["evaluate", "broken.ckpt", "--tasks", "emoji/groups"]) == 2
    said = capsys.readouterr().err
    assert "broken.ckpt" in said
    assert "Traceback" not in said
    assert len(said) < 500


def test_declaring_the_arguments_imports_nothing_heavy():
    code = (
        "import argparse, sys, clipkit.cli.evaluate as it; it.add_arguments(argparse.ArgumentParser());"
        "print(sorted({'torch', 'numpy', 'omegaconf', 'rich', 'datasets', 'lightning', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
