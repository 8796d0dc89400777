"""No code of an untrusted module runs, whatever way a configuration names it."""

from __future__ import annotations

import sys
from contextlib import suppress

import pytest

from clipkit.cli.config import load_experiment
from clipkit.cli.explain import ConfigError
from clipkit.cli.trust import Trust

STRANGER = """
import pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()
from torch import nn
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
def relu(x) -> Tensor: return x
class Net(nn.Module): ...
class Act(nn.Module):
    def __call__(self, x): return x
"""


@pytest.fixture
def stranger(own_folder, monkeypatch):
    """A module that can be imported and leaves a trace when it is."""
    name = f"stranger_{own_folder.parent.name.replace('-', '_')}"
    elsewhere = own_folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{name}.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(elsewhere)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def ran(own_folder, stranger):
    return lambda: stranger in sys.modules or (own_folder.parent / "elsewhere" / f"{stranger}.ran").exists()


@pytest.fixture
def load(own_folder, stand_ins, stranger):
    def load(*overrides, trust=()):
        return load_experiment([str(stand_ins)], [word.replace("STRANGER", stranger) for word in overrides], trust)

    return load


WAYS = [
    "--model.net.class_path=STRANGER.Net",
    "--model.net=STRANGER.Net",
    "--model.class_path=STRANGER.Task",
    "--model.head.class_path=STRANGER.Head",
    "--model.head=STRANGER.relu",
    "--model.net.act=STRANGER.relu",
    "--model.net.act={class_path: STRANGER.Act}",
    "--model.net.kind=STRANGER.Net",
    "--model.parts={a: STRANGER.Net}",
    "--model.parts={a: {class_path: STRANGER.Net}}",
    "--model.layers=[STRANGER.Net]",
    "--model.layers=[{class_path: STRANGER.Net}]",
    "--model.options={a: [{b: {class_path: STRANGER.Net}}]}",
    "--model.options={class_path: STRANGER.Net}",
    "--model.untyped={class_path: STRANGER.Net}",
    "--data.class_path=STRANGER.Data",
    "--trainer.callbacks=STRANGER.EarlyStopping",
    "--trainer.callbacks=[STRANGER.EarlyStopping]",
    "--trainer.callbacks.0.class_path=STRANGER.EarlyStopping",
    "--trainer.logger=STRANGER.Logger",
    "--trainer.plugins=[STRANGER.Plugin]",
]


@pytest.mark.parametrize("way", WAYS)
def test_an_untrusted_module_is_refused_unimported(way, load, ran, stranger):
    with pytest.raises(ConfigError) as caught:
        load(way)
    assert not ran()
    assert f"if you trust {stranger}, add --trust {stranger}." in str(caught.value)
    assert str(caught.value).startswith("command line: ")


@pytest.mark.parametrize(
    "way",
    [
        "--trainer.strategy=STRANGER.Strategy",
        "--trainer.accelerator=STRANGER.Accelerator",
        "--trainer.profiler=STRANGER.Profiler",
        "--model.note=STRANGER.Net",
        "--model.untyped=STRANGER.Net",
        "--model.options={a: STRANGER.Net}",
    ],
)
def test_where_text_fits_too_it_stays_text(way, load, ran):
    with suppress(ConfigError):  # the Trainer knows no strategy of that name
        load(way).build()
    assert not ran()


@pytest.mark.parametrize("key", ["trainer.strategy", "trainer.callbacks", "model.net", "model.net.act"])
def test_no_other_file_is_read_for_a_class(key, load, ran, own_folder, stranger):
    (own_folder / "more.yaml").write_text(f"class_path: {stranger}.Net\n")
    with suppress(ConfigError):
        load(f"--{key}=more.yaml").build()
    assert not ran()


def test_a_trusted_module_is_imported(load, ran, stranger):
    assert load("--model.net.act=STRANGER.relu", "--model.parts={a: STRANGER.Net}", trust=[stranger]).config
    assert ran()


def test_trust_ends_with_the_configuration_it_was_given_for(load, ran, stranger):
    load("--model.note=x", trust=[stranger])
    with pytest.raises(ConfigError):
        load("--model.net=STRANGER.Net")
    assert not ran()


def test_what_a_trusted_module_imports_is_not_trusted_for_that(load):
    with pytest.raises(ConfigError, match=r"functools\.partial is not imported"):
        load("--model.net.act={class_path: lightning.pytorch.cli.partial}")


def test_functions_are_not_called_where_anything_goes(load):
    with pytest.raises(ConfigError, match=r"torch\.hub\.load is no class"):
        load("--model.untyped={class_path: torch.hub.load, repo_or_dir: x, model: y}")
    with pytest.raises(ConfigError, match=r"torch\.hub\.load is no class"):
        load("--model.options={a: {class_path: torch.hub.load, repo_or_dir: x, model: y}}")


def test_a_file_beside_is_trusted_and_an_installed_module_comes_first(own_folder):
    (own_folder / "beside_a.py").write_text("class X: ...\n")
    (own_folder / "random.py").write_text("class X: ...\n")
    trust = Trust(folders=[own_folder])
    trust.check("beside_a.X", ("model",), None)
    assert trust.allows("beside_a.X")
    assert str(own_folder) in sys.path
    sys.path.remove(str(own_folder))
    with pytest.raises(ConfigError, match=r"model: random.py beside this file is hidden by another module random"):
        trust.check("random.X", ("model",), None)


def test_no_other_name_is_looked_for_beside(own_folder):
    before = list(sys.path)
    with pytest.raises(ConfigError, match="add --trust nowhere"):
        Trust(folders=[own_folder]).check("nowhere.X", ("model",), None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module_here",
            "--trust no_such_module_here: there is no module no_such_module_here here or installed.",
        ),
        ("a b", "--trust a b: name a module, such as mypackage or mypackage.towers."),
        ("mine.py", "--trust mine.py: there is no module mine here or installed."),
        ("jsonargparse", "--trust jsonargparse: it decides what is imported, so nothing in it can be named."),
    ],
)
def test_trust_of_nothing_is_told(own_folder, name, message):
    with pytest.raises(ConfigError) as caught:
        Trust([name])
    assert str(caught.value) == f"command line: {message}"


def test_a_module_of_the_working_folder_can_be_trusted(own_folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(own_folder))])
    (own_folder / "mine_here.py").write_text("class X: ...\n")
    assert Trust(["mine_here"]).allows("mine_here.X")
    assert not Trust(["mine_here"]).allows("mine_here_too.X")
