"""The walk: what it lets through, in which shape, and every mistake in one sentence with its place."""

from __future__ import annotations

import pytest

from clipkit.cli.config import load_experiment
from clipkit.cli.explain import ConfigError


@pytest.fixture
def load(stand_ins):
    def load(*overrides):
        experiment = load_experiment([str(stand_ins)], overrides)
        import stand_ins as module

        assert module.BUILT == []
        return experiment

    return load


@pytest.fixture
def mistake(stand_ins):
    def mistake(*overrides):
        with pytest.raises(ConfigError) as caught:
            load_experiment([str(stand_ins)], overrides)
        import sys

        module = sys.modules.get("stand_ins")
        assert module is None or module.BUILT == []
        return str(caught.value)

    return mistake


NET = "--model.net.class_path=stand_ins."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.ler=1"], "model.ler: Task has no argument ler. Did you mean lr?"),
        (
            ["--trainer.max_epoch", "3"],
            "trainer.max_epoch: Trainer has no argument max_epoch. Did you mean max_epochs?",
        ),
        (["--model.net.widht=1"], "model.net.widht: Net has no argument widht. Did you mean width?"),
        (["--data.zzz=1"], "data.zzz: Data has no argument zzz. There are batch_size, seed, train."),
        (["--trainer.callbacks.0.montor=a"], "trainer.callbacks.0.montor: EarlyStopping has no argument montor. Did"),
        (["--model.head.inputs=1"], "model.head.inputs: inputs is given to Head by what holds it; leave it out."),
        (["--model.parts={a: {class_path: stand_ins.Net, wdth: 1}}"], "model.parts.a.wdth: Net has no argument wdth."),
        (["--data.batch_size=many"], 'data.batch_size is "many", but Data takes a whole number there.'),
        (["--data.batch_size=null"], "data.batch_size is null, but Data takes a whole number there."),
        (["--data.batch_size=true"], "data.batch_size is true, but Data takes a whole number there."),
        (["--data.train=3"], "data.train is 3, but Data takes text there."),
        (["--model.betas=[1]"], "model.betas is [1], but Task takes a list of 2 numbers there."),
        (
            ["--model.head.kind=fany"],
            'model.head.kind is "fany", but Head takes one of plain, fancy there. Did you mean f',
        ),
        (
            ["--seed_everything=x"],
            'seed_everything is "x", but an experiment takes true or false or a whole number there.',
        ),
        (["--trainer.precision=bf61-mixed"], "32-true, 64-true, bf16 or null there. Did you mean bf16-mixed?"),
        (["--model=3"], "model is 3, but an experiment takes a LightningModule there."),
        (["--trainer=3"], "trainer is 3, but an experiment takes a Trainer there."),
        (["--model.net=3"], "model.net is 3, but Task takes a Module there."),
        (["--model.net=[1]"], "model.net is [1], but Task takes a Module there."),
        (["--trainer.callbacks=[3]"], "trainer.callbacks.0 is 3, but Trainer takes a Callback there."),
        (["--model.layers={a: 1}"], "model.layers is "),
        (["--model.parts=[1]"], "model.parts is [1], but Task takes a mapping or null there."),
        (["--model.net.class_path=3"], "model.net.class_path: 3 is no name of a class."),
        ([NET + "Nte"], "model.net.class_path: stand_ins has no Nte. Did you mean Net?"),
        (["--model.net=Wide"], "model.net: a class is named with its module. Did you mean stand_ins.Wide?"),
        (["--model.objective=x"], "model.objective: Task has no argument objective."),
        (
            ["--trainer.callbacks=[stand_ins.Net]"],
            "trainer.callbacks.0: stand_ins.Net is no Callback, which is what stands",
        ),
        (
            ["--model.head.class_path=stand_ins.Data"],
            "model.head.class_path: stand_ins.Data is no Head, which is what sta",
        ),
        (["--model.net.kind=torch.nn.functional.relu"], 'model.net.kind is "torch.nn.functional.relu", but Net takes '),
        (["--model.net.act=torch.nn.functional.nothing"], "model.net.act: torch.nn.functional has no nothing."),
        (
            ["--model.parts={a: {width: 3}}"],
            "model.parts.a: Task takes a Module here; which class? Name it with class_path.",
        ),
        (
            ["--model.parts={a: {clas_path: x}}"],
            "model.parts.a.clas_path: Task takes a Module here; which class? Did you mean class_path in",
        ),
        (
            ["--model.parts={a: {class_path: stand_ins.Net}}"],
            "model.parts.a: Net needs width (a whole number), which is not",
        ),
        (["--model.head=stand_ins.Head"], "model.head: Head needs size (a whole number), which is not given."),
        (["--model.net.width=13"], "model.net.width: 13 brings bad luck; did you mean 12 or 14?"),
        (
            ["--trainer.class_path=lightning.pytorch.Trainer"],
            "trainer.class_path: the trainer is always Lightning's own;",
        ),
        (
            ["--model.note=${data.bath_size}"],
            "model.note: ${data.bath_size} refers to a key that is not given. Did you mean",
        ),
        (["--model.note=${data.bath_size}", "--model.ler=1"], "model.ler: Task has no argument ler."),
        (
            ["--trainer.logger={class_path: lightning.pytorch.loggers.logger.Logger}"],
            "is only the base of others and cannot",
        ),
    ],
)
def test_mistakes_of_the_command_line(overrides, message, mistake):
    said = mistake(*overrides)
    assert said.startswith("command line: ")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  lr: 1e-3", "  ler: 1e-3", "base.yaml, line 8: model.ler: Task has no argument ler. Did you mean lr?"),
        ("model:", "modle:", "base.yaml, line 2: modle: an experiment has no section modle. Did you mean model?"),
        (
            "callbacks:",
            "callback:",
            "base.yaml, line 17: trainer.callback: Trainer has no argument callback. Did you mea",
        ),
        (
            "monitor: loss",
            "montor: loss",
            "base.yaml, line 18: trainer.callbacks.0.montor: EarlyStopping has no argument",
        ),
        ("width: 4", "width: x", 'base.yaml, line 4: model.net.width is "x", but Net takes a whole number there.'),
        (", width: 4", "", "base.yaml, line 4: model.net: Net needs width (a whole number), which is not given."),
        ("{size: 8}", "{siez: 8}", "base.yaml, line 7: model.head.siez: Head has no argument siez. Did you mean size?"),
        ("class_path: stand_ins.Data", "class_pth: stand_ins.Data", "base.yaml, line 11: data.class_pth: "),
        (
            "batch ${data.batch_size}",
            "${data.batch}",
            "base.yaml, line 9: model.note: ${data.batch} refers to a key that is",
        ),
        (
            "    class_path: stand_ins.Head",
            "    class_pth: stand_ins.Head",
            "base.yaml, line 6: model.head.class_pth: Head has no argument class_pth. Did you mean class_path?",
        ),
        ("trainer:\n", "trainer: 3\nx:\n", "base.yaml, line 14: x: an experiment has no section x."),
    ],
)
def test_mistakes_of_a_file(stand_ins, old, new, message, mistake):
    text = stand_ins.read_text()
    assert old in text
    stand_ins.write_text(text.replace(old, new))
    said = mistake()
    assert said.startswith(message)


def test_a_key_that_stands_deeper_is_pointed_to(mistake):
    assert "Did you mean model.net.width?" in mistake("--model.width=3")


def test_a_refusal_may_name_a_key_inside_an_argument(mistake):
    assert mistake("--model.net.width=17") == "base.yaml, line 4: model.net.options.depth: too deep."


def test_a_class_may_look_at_its_own_arguments(load, mistake):
    odd = "--model.parts={a: {class_path: stand_ins.Odd, word: hello}}"
    assert mistake(odd).startswith("command line: model.parts.a: nothing answers to hello (stand_ins.py, line ")
    assert load("--model.parts={a: stand_ins.Even}").given["model"]["parts"] == {"a": {"class_path": "stand_ins.Even"}}


def test_a_section_that_is_missing(own_folder):
    (own_folder / "a.yaml").write_text("trainer: {max_epochs: 1}\n")
    with pytest.raises(
        ConfigError, match=r"^a.yaml: an experiment needs model \(a LightningModule\), which is not given\.$"
    ):
        load_experiment(["a.yaml"])


def test_values_with_secret_names_are_not_shown(stand_ins, mistake):
    assert "hunter2" not in mistake(
        "--trainer.logger={class_path: lightning.pytorch.loggers.CSVLogger, api_key: hunter2}"
    )
    assert "swordfish" not in mistake("--data.train=[https://me:swordfish@host/x]")


def test_a_refusal_may_quote_a_value_but_not_its_credentials(own_folder):
    with pytest.raises(ConfigError) as caught:
        load_experiment(["emoji"], ["--data.train=foo://me:swordfish@host/x.parquet"]).build()
    assert "data.train: nothing can read 'foo://' in 'foo://host/x.parquet'" in str(caught.value)
    assert "swordfish" not in str(caught.value)


def test_classes_beside_their_arguments_or_under_init_args_or_as_a_string(load):
    beside = load("--model.net={class_path: stand_ins.Other, depth: 2}").given
    under = load("--model.net={class_path: stand_ins.Other, init_args: {depth: 2}}").given
    assert beside["model"]["net"]["depth"] == under["model"]["net"]["depth"] == 2
    named = load("--trainer.callbacks=[lightning.pytorch.callbacks.RichModelSummary]").given["trainer"]["callbacks"]
    assert named == [{"class_path": "lightning.pytorch.callbacks.RichModelSummary"}]


def test_the_one_class_of_an_annotation_need_not_be_named(stand_ins, load):
    stand_ins.write_text(stand_ins.read_text().replace("    class_path: stand_ins.Head\n", ""))
    assert load().given["model"]["head"] == {"class_path": "stand_ins.Head", "size": 8}


def test_a_replaced_class_leaves_out_what_it_has_no_place_for_and_says_so(load):
    experiment = load("--model.head.kind=fancy", NET + "Other")
    assert experiment.given["model"]["net"] == {"class_path": "stand_ins.Other", "width": 4}
    assert experiment.notes == (
        "model.net: Other in place of Net (base.yaml, line 4); still as given before: width=4.",
    )
    experiment = load(
        "--model.head={class_path: stand_ins.Head, size: 1}",
        "--trainer.callbacks.0.class_path=lightning.pytorch.callbacks.RichModelSummary",
    )
    assert experiment.given["trainer"]["callbacks"] == [{"class_path": "lightning.pytorch.callbacks.RichModelSummary"}]
    note = "trainer.callbacks.0: RichModelSummary in place of EarlyStopping (base.yaml, line 18); left out, having"
    assert experiment.notes == (f"{note} no place in it: monitor.",)


def test_an_argument_given_with_the_new_class_has_to_fit_it(mistake):
    assert "RichModelSummary has no argument mode." in mistake(
        "--trainer.callbacks.0.class_path=lightning.pytorch.callbacks.RichModelSummary", "--trainer.callbacks.0.mode=x"
    )
