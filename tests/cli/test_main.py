"""The dispatcher: light, and short in what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clipkit.cli.main import COMMANDS, main

HEAVY = {
    "torch",
    "lightning",
    "numpy",
    "omegaconf",
    "yaml",
    "jsonargparse",
    "rich",
    "mlflow",
    "datasets",
    "transformers",
}


def said(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


def test_no_help_imports_anything_heavy():
    code = (
        "import sys\n"
        "from clipkit.cli.main import COMMANDS, main\n"
        "codes = [main(['--help']), main(['--version']), *(main([command, '--help']) for command in COMMANDS)]\n"
        f"print(codes, sorted({HEAVY!r} & set(sys.modules)), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, heavy = [0] * (2 + len(COMMANDS)), []
    assert done.stdout.splitlines()[-1].startswith(f"{codes} {heavy} "), done.stdout[-300:] + done.stderr


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "clipkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("clipkit 0.")


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_without_a_word_it_helps(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: clipkit COMMAND")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ftt"], "there is no command ftt. Did you mean fit?"),
        (["evalute", "x"], "there is no command evalute. Did you mean evaluate?"),
        (["zzz"], "There are bench, consolidate, data, evaluate, fit, replay, sweep, validate."),
        (["--versoin"], "--versoin is not known; did you mean --version?"),
        (["evaluate", "--taks", "x"], "--taks is not known; did you mean --tasks?"),
        (["evaluate", "x"], "required: --tasks"),
        (["data", "build-emoji", "--packges", "x"], "--packges is not known; did you mean --packages?"),
        (["data", "build-emojis"], "build-emoji"),
        (["data"], "required: WHAT"),
        (["fit"], "-c FILE is missing: a path, or a shipped experiment: convnext_distilbert"),
        (["fit", "emoji"], "emoji stands alone; an experiment is given with -c emoji"),
        (["fit", "-c", "emojy"], "no shipped experiment of that name. Did you mean -c emoji?"),
        (["fit", "--confg", "x"], "--confg is not known. Did you mean --config?"),
        (["fit", "--conf", "x"], "--conf is not known"),
        (["fit", "--modle.lr=3"], "--modle.lr is not known. Did you mean --model.lr?"),
        (["fit", "-c", "emoji", "--data.batch_size"], "--data.batch_size needs a value"),
        (["sweep"], "-c FILE is missing: a path, or a shipped sweep: objectives"),
        (["sweep", "-c", "objectves"], "no shipped sweep of that name. Did you mean -c objectives?"),
        (["sweep", "-c", "objectives", "--modle.lr=3"], "--modle.lr is not known. Did you mean --model.lr?"),
        (["validate", "--checkpoint", "none.ckpt"], "--checkpoint none.ckpt: there is no such file"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(words, hint, capsys):
    assert main(words) == 2
    line = said(capsys)
    assert hint in line
    assert line.startswith("clipkit")


def test_in_a_terminal_messages_are_wrapped(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["fit"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 100 for line in lines)


def test_a_traceback_can_be_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("CLIPKIT_TRACEBACK", "1")
    assert main(["fit"]) == 2
    assert "Traceback" in capsys.readouterr().err
