"""The shared head: two projections into one space, and the temperature."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as to_unit

from clipkit.layers import Component
from clipkit.types import ArgumentError, Embeddings, Features

__all__ = ["ContrastiveHead", "Projection"]

Projection = Literal["none", "linear", "linear_bias", "mlp"]


class ContrastiveHead(Component):
    """Projects both towers' pooled vectors into one space (CLIP, arXiv 2103.00020, figure 3).

    Args:
        image_width: Width of the vision tower; given by the model.
        text_width: Width of the text tower; given by the model.
        embed_dim: Width of the shared space.
        image: The image projection: ``none``, ``linear``, ``linear_bias`` or ``mlp`` (linear, ReLU, linear: ConVIRT).
        text: The text projection, likewise.
        normalize: Whether embeddings are brought to unit length.
        init_logit_scale: Start of the log of the inverse temperature; ln(1/0.07) in CLIP, ln 10 in SigLIP.
        init_logit_bias: Start of the bias on the logits, -10 in SigLIP; ``null`` for none.
        learn_scale: Whether the temperature is learned.
        max_logit_scale: Clamp of the log after each optimiser step, ln 100 in CLIP.

    Raises:
        ArgumentError: For another projection, or where ``none`` is asked for a tower whose width is not ``embed_dim``.
    """

    logit_bias: nn.Parameter | None

    def __init__(
        self,
        image_width: int,
        text_width: int,
        embed_dim: int,
        image: Projection = "linear",
        text: Projection = "linear",
        normalize: bool = True,
        init_logit_scale: float = math.log(1 / 0.07),
        init_logit_bias: float | None = None,
        learn_scale: bool = True,
        max_logit_scale: float = math.log(100),
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.normalize = normalize
        self.max_logit_scale = max_logit_scale
        self.image = _projection("image", image, image_width, embed_dim)
        self.text = _projection("text", text, text_width, embed_dim)
        # (1,) and not 0-D, which FSDP refuses
        self.logit_scale = nn.Parameter(torch.full((1,), float(init_logit_scale)), requires_grad=learn_scale)
        bias = None if init_logit_bias is None else nn.Parameter(torch.full((1,), float(init_logit_bias)))
        self.register_parameter("logit_bias", bias)

    def forward(self, image: Features, text: Features) -> Embeddings:
        """Both towers' features to embeddings (B, embed_dim) with the temperature."""
        scale = self.logit_scale.exp()
        return Embeddings(self.project_image(image), self.project_text(text), scale, self.logit_bias)

    def project_image(self, features: Features, normalize: bool | None = None) -> Tensor:
        """(B, image_width) pooled to (B, embed_dim), of unit length as the head has it or as ``normalize`` says."""
        return self._finish(self.image(features.pooled), normalize)

    def project_text(self, features: Features, normalize: bool | None = None) -> Tensor:
        """(B, text_width) pooled to (B, embed_dim), likewise."""
        return self._finish(self.text(features.pooled), normalize)

    def after_optimizer_step(self, step: int) -> None:
        """Clamp the temperature, as the paper does, so that logits are scaled by at most 100."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=self.max_logit_scale)

    def _finish(self, x: Tensor, normalize: bool | None) -> Tensor:
        if not (self.normalize if normalize is None else normalize):
            return x
        # A unit vector rounded to bf16 is one no more, and cosines of such differ by less than their rounding.
        return to_unit(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def _projection(side: str, kind: Projection, width: int, embed_dim: int) -> nn.Module:
    if kind not in get_args(Projection):
        raise ArgumentError(side, f"{kind!r} is not one of {', '.join(get_args(Projection))}")
    if kind == "none":
        if width != embed_dim:
            raise ArgumentError(side, f"`none` needs embed_dim {embed_dim} to equal the tower's width {width}")
        return nn.Identity()
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))
    linear = nn.Linear(width, embed_dim, bias=kind == "linear_bias")
    nn.init.normal_(linear.weight, std=width**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
