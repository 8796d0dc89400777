"""Files that hold all a model needs: no hub, no pickle, no class that is not trusted."""

from __future__ import annotations

import shutil
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import BertConfig, BertModel

import clipkit
from clipkit.heads import ContrastiveHead
from clipkit.layers import Component
from clipkit.models import DualEncoder, build, describe, load, save
from clipkit.tokens import read_tokenizer
from clipkit.towers import HuggingFaceTower, TimmTower


class Outsider(Component):
    def __init__(self, width: int = 3):
        super().__init__()
        self.layer = nn.Linear(width, width)


def function(width: int = 3):
    return Outsider(width)


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.fixture
def no_network(monkeypatch):
    def connect(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def test_the_same_answers_after_a_round_trip(model, tmp_path):
    save(model, tmp_path / "model.clip")
    other = clipkit.load(tmp_path / "model.clip")
    assert not other.training
    picture, names = Image.new("RGB", (40, 30), "red"), ["a", "b"]
    assert torch.equal(other.classify(picture, names), model.classify(picture, names))
    assert other.inputs == model.inputs
    assert describe(other) == describe(model)
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["model.clip"]


def test_pretrained_towers_travel_whole(tmp_path, no_network):
    """Made from a folder in the hub's layout; loaded where neither the folder nor the network is there."""
    folder = tmp_path / "hub"
    config = BertConfig(
        vocab_size=8192,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "words.json").write_text(read_tokenizer("emoji"), encoding="utf-8")
    text = HuggingFaceTower(str(folder), pool="mean", tokenizer=str(folder / "words.json"), context_length=12)
    made = DualEncoder(TimmTower("test_vit", image_size=32), text, partial(ContrastiveHead, embed_dim=8)).eval()
    save(made, tmp_path / "model.clip")
    shutil.rmtree(folder)
    other = load(tmp_path / "model.clip")
    with torch.no_grad():
        assert torch.equal(other.encode_text(["a red heart", "sun"]), made.encode_text(["a red heart", "sun"]))
    assert other.text.arguments["name"] is None


def test_a_description_is_plain_data(model):
    found = describe(model)
    assert found["class_path"] == "clipkit.models.DualEncoder"
    assert found["init_args"]["vision"]["class_path"] == "clipkit.towers.TimmTower"
    head = found["init_args"]["head"]
    assert head["partial"] and "image_width" not in head["init_args"] and head["init_args"]["embed_dim"] == 16
    assert {k: type(v).__module__ for k, v in found.items()} == {"class_path": "builtins", "init_args": "builtins"}
    assert describe(build(found)) == found


def test_only_components_of_plain_data_are_described():
    class Local(Component):
        pass

    class Holder(Component):
        def __init__(self, what):
            super().__init__()

    with pytest.raises(TypeError, match="a Linear does not keep its arguments: derive it"):
        describe(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="can be made nowhere else: define it at the top level"):
        describe(Local())
    Holder.__qualname__ = "Holder"
    with pytest.raises(TypeError, match=r"Holder\.what\.deep is a Tensor: a saved argument is plain data"):
        describe(Holder({"deep": torch.zeros(1)}))


def test_classes_from_elsewhere_need_trust(tmp_path):
    save(Outsider(5), tmp_path / "outsider.clip")
    with pytest.raises(ValueError, match=rf"asks for {__name__}\.Outsider, not one of clipkit's; load\(path, trust="):
        load(tmp_path / "outsider.clip")
    assert load(tmp_path / "outsider.clip", trust=[__name__]).layer.in_features == 5


@pytest.mark.parametrize("path", ["os.system", "torch.nn.Linear", "clipkitty.Tower"])
def test_what_is_not_clipkits_is_not_even_imported(path):
    with pytest.raises(ValueError, match="not one of clipkit's"):
        build({"class_path": path, "init_args": {}})


@pytest.mark.parametrize("path", ["clipkit.models.saving.os", "clipkit.load", "clipkit.towers.Nothing"])
def test_what_clipkit_holds_besides_components_is_not_made(path):
    with pytest.raises(ValueError, match="which is no component"):
        build({"class_path": path, "init_args": {}})


def test_a_trusted_module_does_not_vouch_for_what_it_imports():
    with pytest.raises(ValueError, match="which is no component"):
        build({"class_path": f"{__name__}.function", "init_args": {}}, trust=[__name__])


def test_files_that_cannot_be_read(model, tmp_path):
    path = tmp_path / "model.clip"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(path)
    save(model, path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"'.*model\.clip' was not written by clipkit, or is damaged"):
            load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="does not say how to make its model"):
        load(path)
    torch.save({"clipkit": {"format": 99, "model": {}}, "state_dict": {}}, path)
    with pytest.raises(ValueError, match="has format 99, and this version reads up to 1: update clipkit"):
        load(path)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"clipkit": Trap()}, tmp_path / "trap.clip")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "trap.clip")
    assert not (tmp_path / "sprung").exists()


def test_a_save_that_fails_leaves_the_file_as_it_was(model, tmp_path, monkeypatch):
    path = tmp_path / "model.clip"
    save(model, path)
    before = path.read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob(".*")] == []
