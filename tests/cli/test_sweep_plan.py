"""A sweep's file: which runs it makes, under which names, and how mistakes in it are told before anything trains."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from clipkit.cli.config import load_experiment, shipped_sweeps
from clipkit.cli.document import parse_scalar
from clipkit.cli.explain import ConfigError
from clipkit.cli.overrides import parse_overrides
from clipkit.cli.sweep_plan import as_yaml, read_sweep, words


@pytest.fixture
def plan(stand_ins):
    """``plan(text)``: the sweep of a file beside ``base.yaml``."""

    def plan(text, overrides=(), name="try.yaml"):
        Path(name).write_text(f"base: base.yaml\nmetric: val/loss\n{text}", encoding="utf-8")
        return read_sweep(name, overrides)

    return plan


def given(run):
    """What the run's own configuration says, as the command line makes it."""
    return load_experiment(["base.yaml"], words(run)).given


def test_seeds_alone(plan):
    sweep = plan("seeds: [3, 5]\n")
    assert [str(run) for run in sweep.runs] == ["base, seed 3", "base, seed 5"]
    assert [given(run)["seed_everything"] for run in sweep.runs] == [3, 5]


def test_settings_are_crossed_with_the_grid_and_the_seeds_seed_by_seed(plan):
    sweep = plan(
        "seeds: [0, 1]\noverrides: {trainer.max_epochs: 7}\n"
        "settings:\n  plain:\n  wide: {model.net.width: 9}\n"
        "grid: {data.batch_size: [8, 16], model.lr: [1e-3, 0.5]}\n"
    )
    points = [f"batch_size={size}, lr={lr}" for size in (8, 16) for lr in (0.001, 0.5)]
    labels = [f"{name}, {point}" for name in ("plain", "wide") for point in points]
    assert sweep.settings == labels
    assert [(run.setting, run.seed) for run in sweep.runs] == [(label, seed) for seed in (0, 1) for label in labels]
    last = given(sweep.runs[-1])
    assert last["trainer"]["max_epochs"] == 7
    assert last["model"]["net"] == {"class_path": "stand_ins.Net", "width": 9}
    assert (last["model"]["lr"], last["data"]["batch_size"]) == (0.5, 16)
    assert last["model"]["note"] == "batch 16"  # references follow


def test_a_setting_may_be_nested_and_replace_a_class(plan):
    sweep = plan("settings:\n  other: {model: {net: {class_path: stand_ins.Other, depth: 3}}}\n  same: {}\n")
    assert given(sweep.runs[0])["model"]["net"] == {"class_path": "stand_ins.Other", "depth": 3, "width": 4}
    assert "still as given before: width=4" in " ".join(sweep.notes)


def test_names_of_grid_points_are_short_and_unlike(plan):
    grid = "grid:\n  model.net.width: [1, 2]\n  model.head.size: [{a: 1}]\n  trainer.callbacks.0.monitor: [a.b]\n"
    assert plan(grid.replace("{a: 1}", "4")).settings[0] == "width=1, size=4, monitor=a.b"
    classes = "grid:\n  model.net: [{class_path: stand_ins.Other}, {class_path: stand_ins.Net, width: 3}]\n"
    assert plan(classes).settings == ["net=Other", "net=Net(width: 3)"]
    assert plan("grid:\n  data.seed: [1]\n  model.options.seed: [1]\n").settings == [
        "data.seed=1, model.options.seed=1"
    ]


def test_a_key_is_the_same_as_long_as_the_run_is(plan):
    text = "settings: {a: {model.lr: 1e-3}, b: {model.lr: 1e-2}}\nseeds: [0, 1]\n"
    keys = [run.key for run in plan(text).runs]
    assert len(set(keys)) == 4
    assert [run.key for run in plan(f"# a remark\n{text}").runs] == keys
    assert [run.key for run in plan(text.replace("[0, 1]", "[0, 1, 2]")).runs][:4] == keys
    assert not set(keys) & {run.key for run in plan(text, ["--trainer.max_epochs=9"]).runs}
    changed = Path("base.yaml").read_text().replace("max_epochs: 1", "max_epochs: 2")
    Path("base.yaml").write_text(changed)
    assert not set(keys) & {run.key for run in plan(text).runs}


def test_a_key_is_a_folder_s_name(plan):
    (run,) = plan('settings: {"a/b: ../c ü": {}}\n').runs
    assert "/" not in run.key and ":" not in run.key and len(Path(run.key).parts) == 1


def test_the_command_line_changes_every_run(plan):
    sweep = plan("settings: {a: {model.lr: 1e-3}, b: {}}\n", ["--trainer.max_epochs=9", "data.batch_size=2"])
    assert {given(run)["trainer"]["max_epochs"] for run in sweep.runs} == {9}


VALUES = [
    1,
    -2.5,
    1e-30,
    1e22,
    math.inf,
    -math.inf,
    True,
    None,
    "",
    "plain",
    "1e-3",
    "true",
    "a: b # c",
    'he said "x\\y"\n\tüber 🙂',
    "${data.batch_size}",
    [],
    {},
    [1, ["a", None]],
    {"a": {"b": [1.5, "x, y"]}, "c d": "", 3: "three"},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_through_the_command_line_as_it_is(value):
    (override,) = parse_overrides([f"--model.x={as_yaml(value)}"])
    assert override.value == parse_scalar(as_yaml(value)) == value
    assert type(override.value) is type(value)


def test_not_a_number_comes_through_too():
    assert math.isnan(parse_scalar(as_yaml(math.nan)))


FILE = "try.yaml, line 3: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [0]\n", f"{FILE}seed: a sweep has no such key. Did you mean seeds?"),
        ("seeds: 3\n", f"{FILE}seeds is 3, but a list is needed, such as [0, 1, 2]."),
        ("seeds: []\n", f"{FILE}seeds is [], but a list is needed"),
        ("seeds: [0, 0]\n", f"{FILE}seeds: 0 is given twice; leave one out."),
        ("seeds: [0, x]\n", f'{FILE}seeds: "x" is no whole number from 0 on.'),
        ("seeds: [-1]\n", f"{FILE}seeds: -1 is no whole number from 0 on."),
        ("overrides: [a]\n", f'{FILE}overrides is ["a"], but a mapping is needed.'),
        ("overrides: {modle.lr: 3}\n", f"{FILE}modle.lr: there is no section modle. Did you mean model.lr?"),
        ("overrides: {model.lrr: 3}\n", f"{FILE}model.lrr: Task has no argument lrr. Did you mean lr? (In the"),
        ("overrides: {model.lr: fast}\n", f'{FILE}model.lr is "fast", but Task takes a number there.'),
        ("overrides: {model.lr.x: 1}\n", f"{FILE}model.lr.x: model.lr is 0.001 (base.yaml, line 8), with nothing"),
        ("settings: {a: 3}\n", f"{FILE}settings.a is 3, but a mapping of dotted keys to values is needed."),
        ("settings:\n  a: {}\n  b:\n    model.lr: 1\n    model.net.widht: 2\n",
         "try.yaml, line 7: model.net.widht: Net has no argument widht. Did you mean width? (In the setting b.)"),
        ("settings:\n  a: {model.net: {class_path: stand_ins.Nett}}\n", "try.yaml, line 4: "),
        ("settings: {a: {seed_everything: 1}}\n", f"{FILE}seed_everything is given here and under seeds; leave one"),
        ("grid: {model.lr: 3}\n", f"{FILE}model.lr is 3, but a list is needed"),
        ("grid: {model.lr: [1, 2, 1]}\n", f"{FILE}model.lr: 1 is given twice"),
        ("grid: {model.lr: [1, fast]}\n", f'{FILE}model.lr is "fast", but Task takes a number there. (In the setting '
         "lr=fast.)"),
        ("grid: {seed_everything: [1]}\n", "seed_everything is given here and under seeds"),
        ("settings:\n  a: {model.lr: 1}\ngrid: {model.lr: [1]}\n", "line 4: model.lr is given here and under"),
        ('grid: {model.note: ["1", 1]}\n', "two settings would be called note=1; give them names, under settings."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_before_anything_trains(plan, text, message):
    with pytest.raises(ConfigError) as caught:
        plan(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.yaml: is empty; a sweep is a mapping with base, metric, seeds"),
        ("- a\n", "bad.yaml, line 1: is a list; a sweep is a mapping"),
        ("metric: x\n", "bad.yaml: base has to be given, as in base: emoji."),
        ("base: emoji\n", "bad.yaml: metric has to be given, as in metric: emoji/cells/acc1."),
        ("metric: x\nbase: emojy\n", "bad.yaml, line 2: base: emojy: there is no such file and no shipped "
         "experiment of that name. Did you mean base: emoji?"),
        ("metric: x\nbase: bsae.yaml\n", "Did you mean base: base.yaml?"),
    ],
)  # fmt: skip
def test_what_a_sweep_needs(stand_ins, text, message):
    Path("bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_sweep("bad.yaml")
    assert message in str(caught.value)


def test_a_base_is_looked_for_beside_the_sweep(stand_ins):
    Path("below").mkdir()
    Path("below/try.yaml").write_text("base: ../base.yaml\nmetric: x\n")
    assert read_sweep("below/try.yaml").base.resolve() == stand_ins.resolve()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "-c FILE is missing: a path, or a shipped sweep: objectives."),
        ("objective", "command line: -c objective: there is no such file and no shipped sweep of that name. Did you "
         "mean -c objectives?"),
    ],
)  # fmt: skip
def test_a_missing_sweep_is_told_with_the_nearest(name, message):
    with pytest.raises(ConfigError) as caught:
        read_sweep(name)
    assert message in str(caught.value)


def test_shipped_sweeps_are_found_by_name(root):
    assert set(shipped_sweeps()) == {path.stem for path in (root / "experiments" / "sweeps").glob("*.yaml")}
