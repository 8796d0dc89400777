"""What a tower is: a module from pixels or tokens to features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clipkit.layers import Component
from clipkit.tokens import Tokenizer
from clipkit.types import ArgumentError, Features

__all__ = ["TextTower", "Tower", "VisionTower", "check_vocabulary"]


class Tower(Component):
    """Base of all towers.

    Attributes:
        width: Width of the pooled vector.
    """

    width: int

    def resolved(self) -> dict[str, Any]:
        """Arguments but for ``gradient_checkpointing``, which says how to train it and not what it is."""
        return {name: value for name, value in super().resolved().items() if name != "gradient_checkpointing"}

    def blocks(self) -> list[list[nn.Parameter]]:
        """Parameters in depth order: stem, then one list a block; what follows the last block belongs to it.

        The blocks are the items of the module list with the most parameters, and every embedding table outside them is
        of the stem. Override where a tower knows better.
        """
        lists = [m for m in self.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 0]
        everything = list(self.parameters())
        stack = max(lists, key=_size, default=None)
        if stack is None:
            return [everything]
        groups = [ids for block in stack if (ids := {id(p) for p in block.parameters()})]
        owner = {i: n + 1 for n, ids in enumerate(groups) for i in ids}
        # Read before the first block wherever they are registered, as MPNet's and DeBERTa's relative positions.
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        split: list[list[nn.Parameter]] = [[] for _ in range(len(groups) + 1)]
        after = 0
        for parameter in everything:
            place = owner.get(id(parameter), 0 if id(parameter) in tables else after)
            after = len(groups) if id(parameter) in owner else after
            split[place].append(parameter)
        return split


class VisionTower(Tower):
    """Images to features.

    Attributes:
        image_size: Height and width in pixels.
        mean: Of channels in [0, 1].
        std: Of channels in [0, 1].
        interpolation: How images are resized: ``bicubic``, ``bilinear`` or ``nearest``.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str

    def forward(self, image: Tensor) -> Features:
        """Encode images.

        Args:
            image: (B, 3, H, W), uint8 as a batch carries it, or float, already normalised.
        """
        raise NotImplementedError


class TextTower(Tower):
    """Token ids to features.

    Attributes:
        tokenizer: The text of a ``tokenizer.json``.
        context_length: The most tokens a caption may have.
        pad: ``longest`` where trimming padding is exact, else ``max_length``.
    """

    tokenizer: str
    context_length: int
    pad: str

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """Encode captions.

        Args:
            tokens: (B, L) int64.
            mask: (B, L) bool, true where a token is not padding.
        """
        raise NotImplementedError


def check_vocabulary(words: Tokenizer, rows: int | None, rows_from: str = "vocab_size") -> None:
    """Refuse a tokenizer whose ids do not fit an embedding table.

    Args:
        words: The tokenizer.
        rows: Rows of the table; None where it is made to measure.
        rows_from: Where the number of rows is set, for the message.

    Raises:
        ArgumentError: For ``tokenizer``.
    """
    if rows is not None and words.vocab_size > rows:
        message = f"its ids go up to {words.vocab_size - 1}, but the embedding table has {rows} rows ({rows_from})"
        raise ArgumentError("tokenizer", message)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
