"""Two towers and a head: what goes in, in every form, and what comes out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import pixels
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.towers import BagOfWordsTower, TimmTower

NAMES = ["red heart", "dog face", "blue book"]
TEMPLATES = ["{}", "a picture of a {}"]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((32, 32), (50, 40), (20, 70))]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_forward_is_the_head_on_both_towers(model, make_batch):
    batch = make_batch(4)
    out = model(batch)
    image, text = model.vision(batch.image).pooled, model.text(batch.tokens, batch.mask).pooled
    assert out.image.shape == out.text.shape == (4, 16)
    for made, features, layer in ((out.image, image, model.head.image), (out.text, text, model.head.text)):
        by_hand = unit(features.detach().double().numpy() @ layer.weight.detach().double().numpy().T)
        np.testing.assert_allclose(made.detach().numpy(), by_hand, atol=1e-6)
    assert float(out.logit_scale.detach()) == pytest.approx(1 / 0.07)


def test_inputs_are_what_the_towers_want(model):
    assert model.inputs.image_size == (32, 32)
    assert model.inputs.mean == tuple(model.vision.mean) and model.inputs.interpolation == model.vision.interpolation
    assert model.inputs.tokenizer == model.text.tokenizer
    assert (model.inputs.context_length, model.inputs.pad) == (12, "longest")


@torch.no_grad()
def test_images_in_every_form_are_embedded_alike(model, pictures, tmp_path):
    expected = model.encode_image(pixels(pictures, model.inputs))
    assert expected.shape == (3, 16)
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    tensors = [pixels(picture, model.inputs)[0] for picture in pictures]
    forms = [pictures, paths, [str(path) for path in paths], [np.asarray(p) for p in pictures], tensors]
    for form in forms:
        torch.testing.assert_close(model.encode_image(form), expected)
    torch.testing.assert_close(model.encode_image(pictures[1]), expected[1:2])
    torch.testing.assert_close(model.encode_image(str(paths[2])), expected[2:])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.inputs.mean, model.inputs.std))
    floats = (torch.stack(tensors) / 255 - mean) / std
    torch.testing.assert_close(model.encode_image(floats), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_string_or_several(model):
    many = model.encode_text(NAMES)
    assert many.shape == (3, 16)
    torch.testing.assert_close(model.encode_text("dog face"), many[1:2])
    torch.testing.assert_close(many.norm(dim=-1), torch.ones(3))
    raw = model.encode_text(NAMES, normalize=False)
    torch.testing.assert_close(torch.nn.functional.normalize(raw, dim=-1), many)
    assert (raw.norm(dim=-1) - 1).abs().max() > 1e-3


def test_a_class_is_the_mean_of_its_prompts(model, pictures):
    prepared = model.prepare([[t.replace("{}", name) for t in TEMPLATES] for name in NAMES]).detach().numpy()
    for name, vector in zip(NAMES, prepared, strict=True):
        prompts = [model.encode_text(t.replace("{}", name))[0].detach().numpy() for t in TEMPLATES]
        np.testing.assert_allclose(vector, unit(np.mean([unit(p) for p in prompts], 0)), atol=1e-6)
    images = model.encode_image(pictures).detach().numpy()
    logits = images @ prepared.T / 0.07
    likely = np.exp(logits - logits.max(1, keepdims=True))
    found = model.classify(pictures, NAMES, templates=TEMPLATES)
    np.testing.assert_allclose(found.numpy(), likely / likely.sum(1, keepdims=True), atol=1e-5)


def test_more_prompts_than_one_pass_takes(model):
    names = [f"thing {i}" for i in range(600)]
    with torch.no_grad():
        torch.testing.assert_close(model.prepare([[name] for name in names]), model.encode_text(names))


def test_what_cannot_be_classified(model, pictures):
    with pytest.raises(ValueError, match="the template 'a photo' has no"):
        model.classify(pictures, NAMES, templates=["{}", "a photo"])
    for names, templates in (([], ["{}"]), (NAMES, [])):
        with pytest.raises(ValueError, match="at least one"):
            model.classify(pictures, names, templates=templates)


def test_any_two_towers():
    model = DualEncoder(
        TimmTower("test_convnext", image_size=32), BagOfWordsTower(8), partial(ContrastiveHead, embed_dim=6)
    ).eval()
    assert model.classify(Image.new("RGB", (9, 7)), ["a", "b"]).shape == (1, 2)
