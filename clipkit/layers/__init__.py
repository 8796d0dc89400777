"""What several towers and heads share."""

from __future__ import annotations

from clipkit.layers.attention import attention_kernel
from clipkit.layers.component import Component, Factory
from clipkit.layers.pooling import Pool, pool_tokens
from clipkit.layers.transformer import Activation, QuickGELU, Transformer, TransformerBlock

__all__ = [
    "Activation",
    "Component",
    "Factory",
    "Pool",
    "QuickGELU",
    "Transformer",
    "TransformerBlock",
    "attention_kernel",
    "pool_tokens",
]
