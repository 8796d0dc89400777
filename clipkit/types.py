"""What travels between the parts of clipkit: plain named tuples, shapes in their docstrings.

B is the batch per device, L the token length, D the shared embedding width, N a number of tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ArgumentError", "Embeddings", "Features", "ImageTextBatch", "InputSpec", "ObjectiveOutput"]


class ArgumentError(ValueError):
    """A constructor argument that cannot be right.

    The command line turns ``argument`` into the key, file and line of the YAML that gave it.

    Args:
        argument: Name of the constructor's argument.
        message: What is wrong and what to do, one short paragraph.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument
        self.message = message


class InputSpec(NamedTuple):
    """What a model wants to be fed; every model has one as ``.inputs`` and it travels in the checkpoint.

    Attributes:
        image_size: Height and width in pixels.
        mean: Per-channel mean of images scaled to [0, 1].
        std: Per-channel standard deviation of images scaled to [0, 1].
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        tokenizer: The text of a ``tokenizer.json``.
        context_length: The most tokens a caption may have, start and end included.
        pad: ``longest`` where trimming to the longest caption of a batch is exact, else ``max_length``; a data
            module that makes batches for a GPU takes ``multiple_of_8``, the longest rounded up, for the first.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    tokenizer: str
    context_length: int
    pad: str


class ImageTextBatch(NamedTuple):
    """A batch of captioned images.

    Attributes:
        image: (B, 3, H, W) uint8; the vision tower normalises it.
        tokens: (B, L) int64 token ids.
        mask: (B, L) bool, true where ``tokens`` is not padding.
        concept: (B,) int64; rows with equal ids are positives of each other.
        position: (B,) int64, the sample's place in the epoch's order.
        extra: Further columns, each (B, ...).
    """

    image: Tensor
    tokens: Tensor
    mask: Tensor
    concept: Tensor
    position: Tensor
    extra: dict[str, Tensor]

    def first(self, rows: int) -> ImageTextBatch:
        """Only the first ``rows`` rows."""
        return self.part(slice(rows))

    def part(self, rows: slice) -> ImageTextBatch:
        """Only these rows."""
        extra = {name: value[rows] for name, value in self.extra.items()}
        image, tokens, mask = self.image[rows], self.tokens[rows], self.mask[rows]
        return ImageTextBatch(image, tokens, mask, self.concept[rows], self.position[rows], extra)

    def to(self, device: torch.device | str) -> ImageTextBatch:
        """The same batch on another device; to an accelerator the copy may still be under way when this returns."""
        ahead = torch.device(device).type != "cpu"  # a copy to the CPU that is not waited for may be read too early
        extra = {name: value.to(device, non_blocking=ahead) for name, value in self.extra.items()}
        image, tokens, mask, concept, position = (
            column.to(device, non_blocking=ahead)
            for column in (self.image, self.tokens, self.mask, self.concept, self.position)
        )
        return ImageTextBatch(image, tokens, mask, concept, position, extra)


class Features(NamedTuple):
    """What a tower makes.

    Attributes:
        pooled: (B, width), one vector an input.
        tokens: (B, N, width), one vector a patch or token, or None where the tower has none.
        mask: (B, N) bool, true for tokens that are not padding, or None where all count.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class Embeddings(NamedTuple):
    """What a dual encoder makes, and what contrastive objectives read.

    Attributes:
        image: (B, D), L2-normalised unless the head was told otherwise.
        text: (B, D), likewise.
        logit_scale: (1,), already exponentiated.
        logit_bias: (1,) or None where the head has none.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None


class ObjectiveOutput(NamedTuple):
    """What an objective makes of a model's outputs.

    Attributes:
        loss: Scalar to minimise.
        logs: Detached scalars, name to value, logged under ``train/`` or ``val/``.
    """

    loss: Tensor
    logs: dict[str, Tensor]
