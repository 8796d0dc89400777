"""A model and a set so small that what an evaluator finds can be worked out by hand."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from torch import nn
from torch.nn.functional import normalize

NAMES = ["apple", "brick", "cloud", "denim", "elm"]


class TinyModel(nn.Module):
    """Fulfils the contract: mean colour, and bytes of the text, through a table; dropout shows when it is training."""

    def __init__(self, width=6):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vision = nn.Parameter(torch.randn(3, width, generator=generator))
        self.text = nn.Parameter(torch.randn(256, width, generator=generator))
        self.dropout = nn.Dropout(0.9)
        self.calls = []  # number of images of each call

    def encode_image(self, images, normalize=True):
        self.calls.append(len(images))
        colours = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32).mean((0, 1)) for image in images])
        return self._unit((torch.from_numpy(colours) / 127.5 - 1) @ self.vision)

    def encode_text(self, texts, normalize=True):
        return self._unit(torch.stack([self.text[list(text.encode())].mean(0) for text in texts]))

    def prepare(self, classes):
        return normalize(torch.stack([self.encode_text(prompts).mean(0) for prompts in classes]), dim=-1)

    def class_scores(self, images, prepared):
        return self.encode_image(images) @ prepared.T

    def _unit(self, x):
        return normalize(self.dropout(x), dim=-1)


def tiny_rows(count: int = 11) -> Dataset:
    """Plain coloured squares; names come unevenly, one to three captions an image."""
    rng = np.random.default_rng(0)
    names = [NAMES[int(i)] for i in rng.integers(0, len(NAMES), count)]
    colours = [tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), 0.9, 0.9)) for _ in range(count)]
    columns = {
        "image": [Pillow.new("RGB", (4, 4), colour) for colour in colours],
        "name": names,
        "number": [NAMES.index(name) for name in names],
        "captions": [[f"{name} {i} {j}" for j in range(1 + i % 3)] for i, name in enumerate(names)],
    }
    kinds = {"image": Image(), "name": Value("string"), "number": Value("int64"), "captions": List(Value("string"))}
    return Dataset.from_dict(columns, features=Features(kinds))


@pytest.fixture
def model():
    return TinyModel()


@pytest.fixture
def rows():
    return tiny_rows()


@pytest.fixture
def names():
    return NAMES


@pytest.fixture
def make_rows():
    return tiny_rows
