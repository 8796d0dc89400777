"""The pre-norm transformer of the CLIP paper, shared by text towers and decoders."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from clipkit.layers.attention import attention_kernel

__all__ = ["Activation", "QuickGELU", "Transformer", "TransformerBlock"]

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, the activation of the published CLIP weights; not the same function as GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Multi-head self-attention, by the kernel that :func:`clipkit.layers.attention_kernel` chooses.

    Args:
        width: Model width, divisible by ``heads``.
        heads: Number of heads.
        causal: Whether a token sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.causal = causal
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        qkv = self.in_proj(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D/heads)
        with attention_kernel(x, x.shape[1]):
            mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class TransformerBlock(nn.Module):
    """Pre-norm attention and a 4x MLP, each with a residual.

    Args:
        width: Model width.
        heads: Number of heads.
        causal: Whether attention is causal.
        activation: ``quick_gelu``, ``gelu`` or its ``gelu_tanh`` approximation.
        eps: Of the layer norms.

    Raises:
        ValueError: For another activation, or a width that the heads do not divide.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = True,
        activation: Activation = "quick_gelu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = SelfAttention(width, heads, causal)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.c_fc = nn.Linear(width, 4 * width)
        self.act = _activation(activation)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(self.act(self.c_fc(self.ln_2(x))))  # type: ignore[no-any-return]  # as above


class Transformer(nn.Module):
    """A stack of blocks with the initialisation of the CLIP paper's code.

    Standard deviations: attention in d^-1/2, both output projections d^-1/2 (2L)^-1/2, first MLP layer (2d)^-1/2.

    Args:
        width: Model width d.
        layers: Number of blocks L.
        heads: Number of heads.
        causal: Whether attention is causal.
        activation: ``quick_gelu``, ``gelu`` or its ``gelu_tanh`` approximation.
        eps: Of the layer norms.
        gradient_checkpointing: Whether each block keeps its input alone and is computed again in the backward pass.

    Raises:
        ValueError: For another activation, or a width that the heads do not divide.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        causal: bool = True,
        activation: Activation = "quick_gelu",
        eps: float = 1e-5,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        blocks = [TransformerBlock(width, heads, causal, activation, eps) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        into, out = width**-0.5, width**-0.5 / math.sqrt(2 * max(layers, 1))
        for block in blocks:
            nn.init.normal_(block.attn.in_proj.weight, std=into)
            nn.init.normal_(block.attn.out_proj.weight, std=out)
            nn.init.normal_(block.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.c_proj.weight, std=out)
            nn.init.zeros_(block.attn.in_proj.bias)
            nn.init.zeros_(block.attn.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            # No block draws random numbers that a second pass would have to draw again.
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if again else block(x)
        return x


def _activation(name: Activation) -> nn.Module:
    made: dict[str, Callable[[], nn.Module]] = {
        "quick_gelu": QuickGELU,
        "gelu": nn.GELU,
        "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    }
    if name not in made:  # never another function in silence: weights belong to one activation
        raise ValueError(f"activation {name!r} is not one of {', '.join(made)}")
    return made[name]()
