"""The CLIP paper's own text encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from clipkit.layers import Activation, Transformer, pool_tokens
from clipkit.tokens import Tokenizer
from clipkit.towers.base import TextTower, check_vocabulary
from clipkit.types import ArgumentError, Features

__all__ = ["ClipTextTower"]


class ClipTextTower(TextTower):
    """A causal transformer read at the end token (CLIP, arXiv 2103.00020, section 2.4).

    The end token is the tokenizer's own, not the largest id of a caption.

    Args:
        width: Model width.
        layers: Number of blocks.
        heads: Number of attention heads.
        context_length: The most tokens a caption may have.
        tokenizer: ``emoji``, a ``tokenizer.json``, a folder or a hub name.
        vocab_size: Rows of the embedding table; ``null`` for as many as the tokenizer needs.
        activation: ``quick_gelu`` as published, or ``gelu``.
        pad: ``longest`` (exact, as attention is causal) or ``max_length``.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, to save memory.

    Raises:
        ArgumentError: For a tokenizer with no end token or with more ids than the table has rows.
    """

    def __init__(
        self,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        context_length: int = 77,
        tokenizer: str = "emoji",
        vocab_size: int | None = None,
        activation: Activation = "quick_gelu",
        pad: Literal["longest", "max_length"] = "longest",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.check(tokenizer, vocab_size, width, heads)
        words = Tokenizer(tokenizer, context_length, pad)
        self.end_id = words.end_id
        self.tokenizer, self.context_length, self.pad, self.width = words.json, context_length, pad, width
        self.token_embedding = nn.Embedding(vocab_size or words.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(
            width, layers, heads, activation=activation, gradient_checkpointing=gradient_checkpointing
        )
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    @classmethod
    def check(
        cls, tokenizer: str = "emoji", vocab_size: int | None = None, width: int = 512, heads: int = 8, **_: Any
    ) -> None:
        """Refuse a tokenizer that does not fit, before anything is built.

        Raises:
            ArgumentError: Naming the argument.
        """
        words = Tokenizer(tokenizer)
        if words.end_id is None:
            raise ArgumentError("tokenizer", "it ends captions with no token of its own, which this tower is read at")
        check_vocabulary(words, vocab_size)
        if width % heads:
            raise ArgumentError("heads", f"{width} is not divisible by {heads}")

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """(B, L) ids to features, pooled at the end token."""
        x = self.token_embedding(tokens) + self.positions[: tokens.shape[1]]  # (B, L, D)
        x = self.ln_final(self.transformer(x))
        return Features(pool_tokens(x, mask, "eos", tokens, self.end_id), x, mask)

    def resolved(self) -> dict[str, Any]:
        """The tokenizer inlined, the table's size fixed."""
        rows = self.token_embedding.num_embeddings
        return {**super().resolved(), "tokenizer": self.tokenizer, "vocab_size": rows}
