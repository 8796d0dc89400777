"""SigLIP's own text encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clipkit.layers import Transformer
from clipkit.tokens import Tokenizer
from clipkit.towers.base import TextTower, check_vocabulary
from clipkit.types import ArgumentError, Features

__all__ = ["SiglipTextTower"]


class SiglipTextTower(TextTower):
    """A transformer that sees the whole caption, its padding too, read at the last position (SigLIP, arXiv 2303.15343).

    Padding is attended to, so captions are always padded to ``context_length``: trimming would change the embedding.

    Args:
        width: Model width.
        layers: Number of blocks.
        heads: Number of attention heads.
        context_length: Tokens of every caption, padding included.
        tokenizer: ``emoji``, a ``tokenizer.json``, a folder or a hub name.
        vocab_size: Rows of the embedding table; ``null`` for as many as the tokenizer needs.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, to save memory.

    Raises:
        ArgumentError: For a tokenizer with more ids than the table has rows.
    """

    pad = "max_length"

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        context_length: int = 64,
        tokenizer: str = "emoji",
        vocab_size: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.check(tokenizer, vocab_size, width, heads)
        words = Tokenizer(tokenizer, context_length, self.pad)
        self.tokenizer, self.context_length, self.width = words.json, context_length, width
        self.token_embedding = nn.Embedding(vocab_size or words.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, False, "gelu_tanh", 1e-6, gradient_checkpointing)
        self.ln_final = nn.LayerNorm(width, 1e-6)
        nn.init.normal_(self.token_embedding.weight, std=width**-0.5)
        nn.init.normal_(self.positions, std=width**-0.5)

    @classmethod
    def check(
        cls, tokenizer: str = "emoji", vocab_size: int | None = None, width: int = 768, heads: int = 12, **_: Any
    ) -> None:
        """Refuse what does not fit, before anything is built.

        Raises:
            ArgumentError: Naming the argument.
        """
        check_vocabulary(Tokenizer(tokenizer), vocab_size)
        if width % heads:
            raise ArgumentError("heads", f"{width} is not divisible by {heads}")

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """(B, context_length) ids to features, pooled at the last position; the mask is not looked at."""
        x = self.token_embedding(tokens) + self.positions  # (B, L, D)
        x = self.ln_final(self.transformer(x))
        return Features(x[:, -1], x)

    def resolved(self) -> dict[str, Any]:
        """The tokenizer inlined, the table's size fixed."""
        rows = self.token_embedding.num_embeddings
        return {**super().resolved(), "tokenizer": self.tokenizer, "vocab_size": rows}
