"""The mean of word vectors: the simplest text tower."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clipkit.layers import pool_tokens
from clipkit.tokens import Tokenizer
from clipkit.towers.base import TextTower, check_vocabulary
from clipkit.types import Features

__all__ = ["BagOfWordsTower"]


class BagOfWordsTower(TextTower):
    """Token embeddings averaged over a caption, order ignored (the bag of words of CLIP's figure 2).

    Args:
        width: Width of the embeddings.
        tokenizer: ``emoji``, a ``tokenizer.json``, a folder or a hub name.
        context_length: The most tokens a caption may have.
        vocab_size: Rows of the table; ``null`` for as many as the tokenizer needs.

    Raises:
        ArgumentError: For a tokenizer with more ids than the table has rows.
    """

    pad = "longest"

    def __init__(
        self, width: int = 512, tokenizer: str = "emoji", context_length: int = 77, vocab_size: int | None = None
    ) -> None:
        super().__init__()
        self.check(tokenizer, vocab_size)
        words = Tokenizer(tokenizer, context_length, self.pad)
        self.tokenizer, self.context_length, self.width = words.json, context_length, width
        self.embedding = nn.Embedding(vocab_size or words.vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    @classmethod
    def check(cls, tokenizer: str = "emoji", vocab_size: int | None = None, **_: Any) -> None:
        """Refuse a tokenizer that does not fit, before anything is built.

        Raises:
            ArgumentError: For ``tokenizer``.
        """
        check_vocabulary(Tokenizer(tokenizer), vocab_size)

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """(B, L) ids to features; pooled is the mean over tokens that are not padding."""
        x = self.embedding(tokens)  # (B, L, D)
        return Features(pool_tokens(x, mask, "mean"), x, mask)

    def resolved(self) -> dict[str, Any]:
        """The tokenizer inlined, the table's size fixed."""
        rows = self.embedding.num_embeddings
        return {**super().resolved(), "tokenizer": self.tokenizer, "vocab_size": rows}
