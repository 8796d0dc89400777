"""Any timm model: the smallest members of its families, shallower where timm lets them be."""

from __future__ import annotations

import itertools
import json

import pytest
import timm
import torch
from timm.layers import PatchDropout
from torch import nn

from clipkit.models import load, save
from clipkit.optim import set_trainable
from clipkit.towers import TimmTower
from clipkit.types import ArgumentError

SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 48}

# name: (a second size, timm_kwargs)
FAMILIES = {
    "beitv2_base_patch16_224": (64, {"depth": 3, "embed_dim": 96, "num_heads": 3}),
    "caformer_s18": (64, {}),
    "convnext_atto": (64, {}),
    "deit3_small_patch16_224": (64, {"depth": 3}),
    "densenet121": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientnet_lite0": (64, {}),
    "eva02_tiny_patch14_224": (56, {"depth": 3}),
    "fastvit_t8": (64, {}),
    "hiera_tiny_224": (64, {"stages": (1, 1, 1, 1)}),
    "levit_128s": (64, {}),
    "maxvit_rmlp_pico_rw_256": (64, {}),
    "mixer_s32_224": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_035": (64, {}),
    "mobilevit_xxs": (64, {}),
    "naflexvit_base_patch16_gap": (64, {"depth": 3, "embed_dim": 96, "num_heads": 3}),
    "nest_tiny": (64, {}),
    "poolformer_s12": (64, {}),
    "regnetx_002": (64, {}),
    "repvgg_a0": (64, {}),
    "resnet10t": (64, {}),
    "resnet50_clip": (64, {}),
    "swin_tiny_patch4_window7_224": (64, SWIN),
    "swinv2_tiny_window8_256": (64, SWIN),
    "tiny_vit_5m_224": (64, {}),
    "vit_base_patch32_clip_quickgelu_224": (64, {"depth": 3, "embed_dim": 96, "num_heads": 3}),
    "vit_tiny_patch16_224": (64, {"depth": 3}),
    "xcit_nano_12_p16_224": (64, {"depth": 3}),
}
HEAVY = {"caformer_s18", "densenet121", "nest_tiny", "poolformer_s12", "regnetx_002", "repvgg_a0", "tiny_vit_5m_224"}
EVERY = [pytest.param(name, marks=pytest.mark.nightly) if name in HEAVY else name for name in FAMILIES]


def images(tower, rows=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, *tower.image_size), dtype=torch.uint8, generator=generator)


def made(name, image_size=None, **arguments):
    torch.manual_seed(0)
    return TimmTower(name, image_size=image_size, timm_kwargs=FAMILIES.get(name, (0, {}))[1], **arguments)


def order_of_use(tower):
    """Parameter id to the place of its module among all that ran."""
    places, count = {}, itertools.count()

    def note(module, *_):
        place = next(count)
        for parameter in module.parameters(recurse=False):
            places.setdefault(id(parameter), place)

    hooks = [module.register_forward_pre_hook(note) for module in tower.backbone.modules()]
    with torch.no_grad():
        tower.eval()(images(tower, 1))
    for hook in hooks:
        hook.remove()
    return places


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("second", [False, True], ids=["default", "second"])
def test_forward_backward_save_load(name, second, tmp_path):
    size = FAMILIES[name][0] if second else None
    tower = made(name, size)
    assert tower.training
    assert tower.image_size == ((size, size) if size else timm.get_pretrained_cfg(name).input_size[-2:])
    x = images(tower)
    tower.eval()
    with torch.no_grad():
        features = tower(x)
        normalised = tower((x / 255 - tower.pixel_mean) / tower.pixel_std)
    assert features.pooled.shape == (2, tower.width) and features.pooled.isfinite().all()
    assert features.tokens is None or features.tokens.shape[::2] == (2, tower.width)
    assert torch.equal(features.pooled, normalised.pooled)

    save(tower, tmp_path / "tower.clip")
    other = load(tmp_path / "tower.clip")
    assert (other.image_size, other.mean, other.width) == (tower.image_size, tower.mean, tower.width)
    with torch.no_grad():
        assert torch.equal(other(x).pooled, features.pooled)

    tower.train()(x).pooled.square().sum().backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", EVERY)
def test_blocks_go_by_depth_and_the_last_ones_train(name):
    tower = made(name, FAMILIES[name][0])
    blocks = tower.blocks()
    everything = [id(parameter) for block in blocks for parameter in block]
    assert sorted(everything) == sorted(id(parameter) for parameter in tower.parameters())
    places = order_of_use(tower)
    first = [min(places[id(p)] for p in block if id(p) in places) for block in blocks]
    assert first == sorted(first) and len(blocks) >= 4

    model = nn.ModuleDict({"vision": tower})
    set_trainable(model, {"vision": 2})
    open_ones = {id(parameter) for parameter in tower.parameters() if parameter.requires_grad}
    assert open_ones == {id(parameter) for block in blocks[-2:] for parameter in block}
    tower.train()(images(tower)).pooled.square().sum().backward()
    assert {id(parameter) for parameter in tower.parameters() if parameter.grad is not None} == open_ones


@pytest.mark.parametrize(("name", "last"), [("resnet10t", True), ("fastvit_t8", False)])
def test_channels_last_but_for_what_crashes_in_it(name, last):
    tower = made(name, 64)
    assert (tower.layout == torch.channels_last) == last
    convolution = next(
        module for module in tower.modules() if isinstance(module, nn.Conv2d) and module.kernel_size > (1, 1)
    )
    assert convolution.weight.is_contiguous(memory_format=tower.layout)


def test_a_last_norm_belongs_to_the_last_block():
    tower = made("convnext_atto", 32)  # timm's own groups make the head's norm one of its own
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    last = {names[id(parameter)] for parameter in tower.blocks()[-1]}
    assert "backbone.head.norm.weight" in last and "backbone.stages.3.blocks.1.conv_dw.weight" in last


@pytest.mark.parametrize(
    ("name", "size"), [("crossvit_tiny_240", 64), ("efficientformer_l1", 64), ("halonet26t", 40), ("inception_v3", 64)]
)
def test_a_family_that_cannot_work_at_a_size_says_so_at_construction(name, size):
    with pytest.raises(ArgumentError, match=f"{name} cannot work at {size} x {size} pixels") as caught:
        TimmTower(name, image_size=size)
    assert caught.value.argument == "image_size"


def test_sizes():
    assert made("resnet10t", (48, 96)).image_size == (48, 96)
    assert TimmTower("resnet10t", image_size=[48, 96]).image_size == (48, 96)
    tower = made("vit_tiny_patch16_224", (32, 64))
    assert tower(images(tower)).tokens.shape == (2, 1 + 2 * 4, 192)


def test_width_is_what_comes_out():
    tower = TimmTower("mobilenetv3_small_050", image_size=32)
    assert tower.backbone.num_features != tower.width == 1024 == tower(images(tower)).pooled.shape[1]
    assert tower(images(tower)).tokens is None  # its tokens are narrower


def test_pixel_statistics_are_the_models_own():
    clip = made("vit_base_patch32_clip_quickgelu_224", 64)
    assert clip.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert clip.std == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)
    assert clip.interpolation == "bicubic"
    x = images(clip)
    expected = (x.double() / 255 - torch.tensor(clip.mean).view(3, 1, 1)) / torch.tensor(clip.std).view(3, 1, 1)
    seen = []
    clip.backbone.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    clip(x)
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_pixel_statistics_of_a_tag_or_ones_own_are_saved(tmp_path):
    tagged = TimmTower("vit_tiny_patch16_224.augreg_in21k", image_size=32, timm_kwargs={"depth": 1})
    overlay = {"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "file": "/no/such"}
    own = TimmTower("resnet10t", image_size=32, timm_kwargs={"pretrained_cfg_overlay": overlay})
    assert own.mean == (0.1, 0.2, 0.3)
    for tower in (tagged, own):
        save(tower, tmp_path / "tower.clip")
        other = load(tmp_path / "tower.clip")
        assert (other.mean, other.std, other.interpolation) == (tower.mean, tower.std, tower.interpolation)
        assert torch.equal(other(images(tower)).pooled, tower.eval()(images(tower)).pooled)
        assert "/no/such" not in str(tower.resolved())


def test_patches_are_dropped_in_training_only():
    tower = made("vit_tiny_patch16_224", 64, patch_drop=0.5)
    assert any(isinstance(module, PatchDropout) for module in tower.modules())
    assert tower(images(tower)).tokens.shape[1] == 1 + 8
    assert tower.eval()(images(tower)).tokens.shape[1] == 1 + 16


def test_pooling_is_timms():
    torch.manual_seed(0)
    average = TimmTower("vit_tiny_patch16_224", image_size=32, pool="avg", timm_kwargs={"depth": 1}).eval()
    features = average(images(average))
    torch.testing.assert_close(features.pooled, average.backbone.fc_norm(features.tokens[:, 1:].mean(1)))


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        ({"name": "resnet10"}, "name", "timm has no model 'resnet10'; did you mean resnet10t"),
        ({"name": "qwertzuiop"}, "name", "see timm.list_models"),
        ({"name": "resnet10t.c3_in2k"}, "name", "no weights 'c3_in2k' of resnet10t; did you mean resnet10t.c3_in1k"),
        ({"name": "local-dir:/no/such"}, "name", "'local-dir:/no/such' holds no timm model"),
        ({"name": "hf-hub:no/such"}, "name", "'hf-hub:no/such' holds no timm model"),
        ({"name": "resnet10t", "patch_drop": 0.5}, "patch_drop", "resnet10t"),
        ({"name": "convnext_atto", "patch_drop": 0.5}, "patch_drop", "convnext_atto"),
        ({"name": "vit_tiny_patch16_224", "patch_drop": 1.0}, "patch_drop", r"1.0 is not in \[0, 1\)"),
        ({"name": "resnet10t", "pool": "medium"}, "pool", "resnet10t"),
        ({"name": "resnet10t", "pool": "medium", "image_size": 64}, "pool", "resnet10t"),
        ({"name": "resnet10t", "pool": ""}, "pool", "and not one vector an image"),
        ({"name": "resnet10t", "timm_kwargs": {"colour": 1}}, "timm_kwargs", "colour"),
        ({"name": "vit_tiny_patch16_224", "timm_kwargs": {"img_size": 64}}, "timm_kwargs", "give `image_size`"),
        ({"name": "resnet10t", "image_size": 0}, "image_size", "0 is not a number of pixels"),
        ({"name": "resnet10t", "pretrained": True}, "pretrained", "the weights of resnet10t"),
        ({"name": "convnext_atto_rms", "pretrained": True}, "pretrained", "timm has no weights for convnext_atto_rms"),
    ],
)
def test_what_is_refused(arguments, argument, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        TimmTower(**arguments)
    assert caught.value.argument == argument


def test_check_refuses_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(timm, "create_model", None)
    TimmTower.check("resnet10t", pool="avg")
    for arguments in (
        {"name": "resnet"},
        {"name": "resnet10t", "patch_drop": 2},
        {"name": "resnet10t", "image_size": -1},
    ):
        with pytest.raises(ArgumentError):
            TimmTower.check(**arguments)


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """A model of two blocks in the layout of timm's hub."""
    folder = tmp_path_factory.mktemp("timm") / "model"
    torch.manual_seed(3)
    arguments = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 48}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {
        **timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict(),
        "input_size": (3, 48, 48),
        "mean": (0.1,) * 3,
    }
    written = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": arguments,
        "num_classes": 0,
        "pretrained_cfg": config,
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder, model


def test_weights_from_a_folder_in_the_hubs_layout(hub_folder, tmp_path):
    folder, model = hub_folder
    tower = TimmTower(f"local-dir:{folder}", pretrained=True).eval()
    assert tower.image_size == (48, 48) and tower.mean == (0.1,) * 3 and tower.width == 64
    assert all(torch.equal(a, b) for a, b in zip(tower.parameters(), model.parameters(), strict=True))
    save(tower, tmp_path / "tower.clip")
    folder.rename(folder.with_name("away"))
    try:
        other = load(tmp_path / "tower.clip")
    finally:
        folder.with_name("away").rename(folder)
    assert torch.equal(other(images(tower)).pooled, tower(images(tower)).pooled)


def test_a_folder_at_another_size(hub_folder):
    tower = TimmTower(f"local-dir:{hub_folder[0]}", pretrained=True, image_size=96)
    assert tower.image_size == (96, 96) and tower(images(tower)).tokens.shape[1] == 1 + 36
