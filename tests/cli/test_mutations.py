"""Every key and every value of every shipped experiment, made wrong one at a time, through the real command."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import yaml
from torch import nn

from clipkit.cli.config import shipped_experiments
from clipkit.cli.main import main

EXPERIMENTS = shipped_experiments()
# Those that have every class between them; the others say the same with other sizes.
PLAIN = {"emoji", "siglip_b16", "lit_b16", "convnext_distilbert"}
EVERY = [name if name in PLAIN else pytest.param(name, marks=pytest.mark.nightly) for name in EXPERIMENTS]


class Spot(NamedTuple):
    keys: tuple[str, ...]
    line: int
    key: slice
    value: slice
    after: str  # what has to follow another value in the place of one that ends with its line


def spots(node, keys=()):
    """Every key of a file, with where its own text and its value's text stand."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for key, value in pairs:
        inner = (*keys, key.value)
        block = value.start_mark.line > key.start_mark.line
        after = "\n" + " " * value.end_mark.column if block else ""
        start = key.end_mark.index + 1 if block else value.start_mark.index
        own = slice(key.start_mark.index, key.end_mark.index)
        yield Spot(inner, key.start_mark.line + 1, own, slice(start, value.end_mark.index), after)
        yield from spots(value, inner)
    for index, item in enumerate(node.value if isinstance(node, yaml.SequenceNode) else []):
        yield from spots(item, (*keys, str(index)))


def replaced(text, place, new):
    return text[: place.start] + new + text[place.stop :]


def misspelt(name):
    """A slip of the finger: the last two letters changed about, or one doubled."""
    swapped = name[:-2] + name[-2:][::-1]
    return swapped if swapped != name and len(name) > 3 else name + name[-1]


PARTS = ("trainable", "lr_scale")
FREE = (*PARTS, "config", "timm_kwargs")
"""Arguments whose keys are not arguments: they name parts of a model, or settings of another library."""


def free_form(keys, parents=FREE):
    return any(parent in keys for parent in parents)


@pytest.fixture
def built(monkeypatch):
    """The modules that were made meanwhile."""
    made, original = [], nn.Module.__init__

    def count(self, *args, **kwargs):
        made.append(type(self).__name__)
        original(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__init__", count)
    return made


@pytest.fixture
def complaint(tmp_path, monkeypatch, capsys, built):
    """Runs ``clipkit fit`` on a text and returns the one line that it says."""
    monkeypatch.chdir(tmp_path)

    def run(text):
        (tmp_path / "wrong.yaml").write_text(text)
        code = main(["fit", "-c", "wrong.yaml", "--print_config"])
        out, err = capsys.readouterr()
        assert (code, out, built) == (2, "", []), err or out
        assert err.startswith("clipkit fit: wrong.yaml, line ")
        assert err.count("\n") == 1
        assert len(err) < 600
        assert "Error" not in err
        assert "Traceback" not in err
        return err

    return run


@pytest.mark.parametrize("name", EVERY)
def test_every_misspelt_key_is_told_with_its_line_and_the_right_one(name, complaint):
    text = EXPERIMENTS[name].read_text()
    for spot in spots(yaml.compose(text)):
        if free_form(spot.keys[:-1]):
            continue
        wrong = misspelt(spot.keys[-1])
        said = complaint(replaced(text, spot.key, wrong))
        assert f"line {spot.line}: " in said, (spot, said)
        assert wrong in said
        assert spot.keys[-1] in said.rpartition("Did you mean")[2], (spot, said)


@pytest.mark.parametrize("name", EVERY)
def test_every_wrong_type_is_told_with_its_line_and_key(name, complaint):
    text = EXPERIMENTS[name].read_text()
    for spot in spots(yaml.compose(text)):
        if free_form(spot.keys[:-1]):
            continue
        for wrong in ("[[wrong]]",) if free_form(spot.keys) else ("[[wrong]]", "{wrong: type}"):
            said = complaint(replaced(text, spot.value, f" {wrong}{spot.after}"))
            assert f"line {spot.line}: " in said, (spot, said)
            assert ".".join(spot.keys) in said, (spot, said)


@pytest.mark.parametrize("name", EVERY)
def test_every_misspelt_setting_of_another_library_is_told(name, complaint):
    text = EXPERIMENTS[name].read_text()
    for spot in spots(yaml.compose(text)):
        if not free_form(spot.keys[:-1]) or free_form(spot.keys[:-1], PARTS):
            continue
        said = complaint(replaced(text, spot.key, misspelt(spot.keys[-1])))
        assert ".".join(spot.keys[:-1]) in said, (spot, said)
        assert spot.keys[-1] in said, (spot, said)


@pytest.mark.parametrize("name", ["convnext_distilbert", "lit_b16"])
def test_every_misspelt_part_of_a_model_is_told(name, complaint):
    text = EXPERIMENTS[name].read_text()
    found = [spot for spot in spots(yaml.compose(text)) if free_form(spot.keys[:-1], PARTS)]
    assert found
    for spot in found:
        wrong = misspelt(spot.keys[-1])
        said = complaint(replaced(text, spot.key, wrong))
        assert f"line {spot.line}: " in said, (spot, said)
        assert wrong in said
        assert spot.keys[-1] in said.rpartition("did you mean")[2], (spot, said)
