from __future__ import annotations

import pytest

from clipkit.cli.document import read_document
from clipkit.cli.explain import ConfigError, Place
from clipkit.cli.merge import merge, place_of
from clipkit.cli.overrides import parse_overrides


@pytest.fixture
def merged(own_folder):
    def merged(*texts, overrides=()):
        paths = [own_folder / f"{'abc'[number]}.yaml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return merge([read_document(path) for path in paths], parse_overrides(overrides))

    return merged


BASE = "data:\n  batch: 16\n  files: [a, b]\nmodel:\n  lr: ${data.batch}\n  note: batch ${data.batch}\n"


def test_an_override_changes_every_reference_to_it(merged):
    found = merged(BASE, overrides=["--data.batch=64"])
    assert found.values == {
        "data": {"batch": 64, "files": ["a", "b"]},
        "model": {"lr": 64, "note": "batch 64"},
    }
    assert found.places["data", "batch"] == Place("command line")
    assert found.places["model", "lr"] == Place("a.yaml", 5)


def test_an_override_may_be_a_reference(merged):
    assert merged(BASE, overrides=["--model.note=${model.lr}", "--data.batch=2"]).values["model"] == {
        "lr": 2,
        "note": 2,
    }


def test_later_files_win_key_by_key_and_lists_are_replaced(merged):
    found = merged(BASE, "data: {batch: 4, files: [c]}\n")
    assert found.values["data"] == {"batch": 4, "files": ["c"]}
    assert found.values["model"]["lr"] == 4
    assert found.places["data", "batch"] == Place("b.yaml", 1)


def test_overrides_reach_items_of_lists_and_make_a_new_one(merged):
    base = "trainer:\n  callbacks:\n  - {class_path: A, x: 1}\n"
    overrides = ["--trainer.callbacks.0.x=2", "--trainer.callbacks.1.class_path=B", "--trainer.callbacks.1.y=3"]
    found = merged(base, overrides=overrides)
    assert found.values["trainer"]["callbacks"] == [{"class_path": "A", "x": 2}, {"class_path": "B", "y": 3}]


def test_a_mapping_is_merged_into_a_mapping_and_else_takes_the_place(merged):
    found = merged(BASE, overrides=["--data={batch: 2}", "--model.note={a: 1}", "--data.files={b: 2}"])
    assert found.values["data"] == {"batch": 2, "files": {"b": 2}}
    assert found.values["model"]["note"] == {"a": 1}
    assert found.places["model", "note", "a"] == Place("command line")
    assert ("data", "files", "0") not in found.places


def test_literal_dollars_are_kept(merged):
    assert merged("a: \\${x}\nb: 5$\n").values == {"a": "${x}", "b": "5$"}


@pytest.mark.parametrize(
    ("base", "overrides", "message"),
    [
        (
            BASE,
            ["--data.batch.x=1"],
            "command line: data.batch.x: data.batch is 16 (a.yaml, line 2), with nothing below",
        ),
        (BASE, ["--data.files.5=x"], "command line: data.files.5: data.files is a list with items 0 to 1."),
        (BASE, ["--data.files.first=x"], "data.files is a list with items 0 to 1."),
        (BASE, ["--data.files=[]", "--data.files.2=x"], "data.files is a list with no items."),
        ("a: ${b", [], "a.yaml, line 1: a: the ${...} in it cannot be read"),
        ("x:\n  y: ???\n", [], "a.yaml, line 2: x.y has to be given: --x.y=VALUE."),
        ("x: 1\ny: ${oc.env:HOME}\n", [], 'a.yaml, line 2: y: "${oc.env:HOME}" is not read.'),
        ("n: env\ny: a ${oc.${n}:HOME} b\n", [], "a.yaml, line 2: y: "),
        ("y: ${oc.decode:1}\n", [], 'the shell, --y="$NAME"'),
        ("y: \\\\${oc.env:HOME}\n", [], "is not read."),
        (BASE, ["--model.lr=${oc.env:HOME}"], "command line: model.lr: "),
        (BASE, ["--model.lr=${a"], "command line: model.lr: the ${...} in it cannot be read"),
    ],
)
def test_what_fits_nowhere_is_told(merged, base, overrides, message):
    with pytest.raises(ConfigError) as caught:
        merged(base, overrides=overrides)
    assert message in str(caught.value)


def test_an_escaped_resolver_is_text(merged):
    assert merged("y: \\${oc.env:HOME}\n").values == {"y": "${oc.env:HOME}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {batch: 1}\nlr: ${data.bacth}\n",
            "a.yaml, line 2: lr: ${data.bacth} refers to a key that is not given. Did you mean data.batch?",
        ),
        ("a: ${b}\nb: ${a}\n", "a.yaml, line 1: a: ${...} refers to itself."),
    ],
)
def test_references_to_nothing_are_kept_for_later(merged, text, message):
    # the walk may find that the other key is the misspelt one, and says that rather
    errors = [str(error) for error in merged(text).unresolved.values()]
    assert errors[0] == message


def test_a_changed_class_is_noted_with_the_arguments_that_are_left_of_the_old(merged):
    base = "model:\n  class_path: A\n  x: 1\n  y: 2\n  z: 3\n"
    found = merged(base, "model: {class_path: B, y: 5}\n", overrides=["--model.z=6"])
    assert found.values["model"] == {"class_path": "B", "x": 1, "y": 5, "z": 6}
    assert found.replaced == {("model",): ("A", Place("a.yaml", 2), frozenset({"x"}))}
    assert merged(base, "model: {class_path: A, y: 5}\n").replaced == {}


def test_the_place_of_a_key_or_the_nearest_above():
    places = {(): Place("a"), ("x",): Place("a", 1)}
    assert place_of(("x", "y", "z"), places) == Place("a", 1)
    assert place_of(("y",), places) == Place("a")
    assert place_of(("y",), {}) is None
