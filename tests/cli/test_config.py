"""From files to an experiment: finding, defaults, and the round trip of ``--print_config``."""

from __future__ import annotations

import pytest
import yaml

from clipkit.cli.config import find_experiment, load_experiment, shipped_experiments, shipped_sweeps
from clipkit.cli.explain import ConfigError
from clipkit.cli.main import main


def test_shipped_experiments_are_found_by_name(root):
    shipped = shipped_experiments()
    assert set(shipped) == {path.stem for path in (root / "experiments").glob("*.yaml")}
    assert find_experiment("emoji") == shipped["emoji"]


def test_a_path_comes_before_a_name(own_folder):
    (own_folder / "emoji").write_text("model: {}\n")
    assert find_experiment("emoji").resolve() == own_folder / "emoji"


def test_an_installed_package_brings_its_own(own_folder, monkeypatch):
    folder = own_folder / "site" / "clipkit" / "experiments"
    folder.mkdir(parents=True)
    (own_folder / "site" / "experiments").mkdir()  # of another package
    (own_folder / "site" / "experiments" / "other.yaml").touch()
    (folder / "mine.yaml").touch()
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "all.yaml").touch()
    monkeypatch.setattr("clipkit.cli.config.__file__", str(folder.parent / "cli" / "config.py"))
    assert find_experiment("mine") == folder / "mine.yaml"
    assert list(shipped_experiments()) == ["mine"]
    assert shipped_sweeps() == {"all": folder / "sweeps" / "all.yaml"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("emojy", "Did you mean -c emoji?"),
        ("experiments/emoij.yaml", "Did you mean -c emoji?"),
        ("mien.yaml", "Did you mean -c mine.yaml?"),
        ("below/mien.yaml", "Did you mean -c below/mine.yaml?"),
        ("zzzzz", "The shipped ones are convnext_distilbert, "),
    ],
)
def test_a_missing_file_is_told_with_the_nearest(own_folder, name, hint):
    (own_folder / "below").mkdir()
    for file in ("mine.yaml", "below/mine.yaml"):
        (own_folder / file).touch()
    with pytest.raises(ConfigError) as caught:
        find_experiment(name)
    start = f"command line: -c {name}: there is no such file and no shipped experiment of that name. {hint}"
    assert str(caught.value).startswith(start)


def test_an_experiment_knows_what_was_given_and_the_whole(stand_ins):
    experiment = load_experiment([str(stand_ins)], ["--data.batch_size=64"])
    assert experiment.given["model"]["note"] == "batch 64"
    assert experiment.given["data"] == {"class_path": "stand_ins.Data", "batch_size": 64}
    assert experiment.config["data"] == {"class_path": "stand_ins.Data", "batch_size": 64, "train": "here", "seed": 0}
    assert list(experiment.config) == ["seed_everything", "model", "data", "trainer"]
    assert experiment.config["trainer"]["max_steps"] == -1
    assert str(experiment.places["data", "batch_size"]) == "command line"
    assert str(experiment.places["model", "lr"]) == "base.yaml, line 8"
    assert [path.name for path in experiment.files] == ["base.yaml"]


def test_files_are_merged_in_order(stand_ins, own_folder):
    more = "data: {batch_size: 2}\nmodel:\n  net: {class_path: stand_ins.Wide, factor: 3}\n"
    (own_folder / "more.yaml").write_text(more)
    experiment = load_experiment(["base.yaml", "more.yaml"])
    assert experiment.given["model"]["net"] == {"class_path": "stand_ins.Wide", "width": 4, "factor": 3}
    assert experiment.given["model"]["note"] == "batch 2"


def test_the_printed_config_makes_itself_again(stand_ins, capsys, own_folder):
    words = ["--model.note=\\${not a reference}", "--model.options={n: nein, p: {q: [1, 2.5, null]}}"]
    assert main(["fit", "-c", "base.yaml", *words, "--print_config"]) == 0
    first = capsys.readouterr().out
    (own_folder / "printed.yaml").write_text(first)
    assert main(["fit", "-c", "printed.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == first
    again = load_experiment(["printed.yaml"])
    assert again.config == load_experiment(["base.yaml"], words).config
    assert again.config["model"]["note"] == "${not a reference}"
    assert again.config["model"]["options"] == {"n": "nein", "p": {"q": [1, 2.5, None]}}


@pytest.mark.parametrize("name", shipped_experiments())
def test_the_printed_config_of_shipped_experiments_makes_itself_again(name, own_folder):
    experiment = load_experiment([name])
    (own_folder / "printed.yaml").write_text(experiment.to_yaml())
    assert load_experiment(["printed.yaml"]).config == experiment.config


def test_the_printed_config_keeps_secrets(stand_ins):
    experiment = load_experiment(
        [str(stand_ins)], ["--model.options={api_key: hunter22, url: 'https://me:swordfish@host/'}"]
    )
    shown = experiment.to_yaml()
    assert "hunter22" not in shown
    assert "swordfish" not in shown
    assert yaml.safe_load(shown)["model"]["options"]["api_key"] == "[redacted]"
    assert experiment.config["model"]["options"]["api_key"] == "hunter22"


def test_validate_prints_it_too(stand_ins, capsys):
    assert main(["validate", "-c", "base.yaml", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["lr"] == 0.001


def test_sections_may_be_empty_or_left_out(own_folder):
    model = "{class_path: lightning.pytorch.demos.boring_classes.BoringModel}"
    (own_folder / "a.yaml").write_text(f"model: {model}\ntrainer:\n")
    config = load_experiment(["a.yaml"]).config
    assert config["data"]["train"] == "emoji"
    assert config["trainer"]["accelerator"] == "auto"
    assert config["seed_everything"] == 0


def test_a_seed_that_is_drawn_is_refused(stand_ins):
    with pytest.raises(ConfigError, match="seed_everything: a seed that is drawn is in no file; give a number, or"):
        load_experiment([str(stand_ins)], ["--seed_everything=true"])
    assert load_experiment([str(stand_ins)], ["--seed_everything=false"]).config["seed_everything"] is False


def test_sections_have_a_class_of_their_own_where_none_is_named():
    given = load_experiment(["emoji"]).given
    assert given["model"]["class_path"] == "clipkit.tasks.ContrastiveTask"
    assert given["data"]["class_path"] == "clipkit.data.CaptionDataModule"


def test_the_command_tells_what_was_left_out(stand_ins, capsys):
    word = "--trainer.callbacks.0.class_path=lightning.pytorch.callbacks.RichModelSummary"
    assert main(["fit", "-c", "base.yaml", word, "--print_config"]) == 0
    assert capsys.readouterr().err.startswith("note: trainer.callbacks.0: RichModelSummary in place of EarlyStopping")
