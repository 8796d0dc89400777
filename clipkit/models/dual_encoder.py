"""Two towers and a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit

from clipkit.data import pixels
from clipkit.heads import ContrastiveHead
from clipkit.layers import Component, Factory
from clipkit.tokens import Tokenizer
from clipkit.towers import TextTower, VisionTower
from clipkit.types import Embeddings, Features, ImageTextBatch, InputSpec

__all__ = ["DualEncoder"]


class DualEncoder(Component):
    """A vision tower and a text tower behind a shared contrastive head (CLIP, arXiv 2103.00020, figure 1).

    Args:
        vision: Images to features.
        text: Token ids to features.
        head: Makes the head from both towers' widths.

    Attributes:
        inputs: What to feed it.
    """

    def __init__(self, vision: VisionTower, text: TextTower, head: Callable[[int, int], ContrastiveHead]) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        self.head = head(vision.width, text.width)
        self.inputs = InputSpec(
            image_size=vision.image_size,
            mean=vision.mean,
            std=vision.std,
            interpolation=vision.interpolation,
            tokenizer=text.tokenizer,
            context_length=text.context_length,
            pad=text.pad,
        )
        self.tokenizer = Tokenizer(text.tokenizer, text.context_length, text.pad)

    def forward(self, batch: ImageTextBatch) -> Embeddings:
        """Embeddings of a batch, with the temperature."""
        features: tuple[Features, Features] = (self.vision(batch.image), self.text(batch.tokens, batch.mask))
        out: Embeddings = self.head(*features)
        return out

    def encode_image(self, images: Tensor | Sequence[Any] | Any, normalize: bool = True) -> Tensor:
        """Embed images.

        Args:
            images: (B, 3, H, W), uint8 or already normalised floats; or PIL images, paths or arrays, one or several.
            normalize: Whether to bring embeddings to unit length.

        Returns:
            (B, embed_dim).
        """
        x = self.head.image(self.vision(pixels(images, self.inputs).to(self._device)).pooled)
        return to_unit(x, dim=-1) if normalize else x

    def encode_text(self, texts: str | Sequence[str], normalize: bool = True) -> Tensor:
        """Embed captions: one string or several, to (B, embed_dim)."""
        tokens, mask = self.tokenizer([texts] if isinstance(texts, str) else texts)
        return self.encode_tokens(tokens.to(self._device), mask.to(self._device), normalize)

    def encode_tokens(self, tokens: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        """Embed captions already tokenized: (B, L) ids and mask to (B, embed_dim)."""
        x = self.head.text(self.text(tokens, mask).pooled)
        return to_unit(x, dim=-1) if normalize else x

    def prepare(self, classes: Sequence[Sequence[str]]) -> Tensor:
        """What ``class_scores`` needs of K classes, each named by one or more prompts.

        Returns:
            (K, embed_dim): the mean of the normalised prompt embeddings, renormalised (CLIP, section 3.1.4).
        """
        sizes = [len(prompts) for prompts in classes]
        flat = [prompt for prompts in classes for prompt in prompts]
        parts = [self.encode_text(flat[i : i + 512]) for i in range(0, len(flat), 512)]
        means = [group.mean(0) for group in torch.cat(parts).split(sizes)]
        return to_unit(torch.stack(means), dim=-1)

    def class_scores(self, images: Tensor | Sequence[Any] | Any, prepared: Tensor) -> Tensor:
        """(B, K) cosine of each image with each class."""
        return self.encode_image(images) @ prepared.T

    @torch.inference_mode()
    def classify(
        self, images: Tensor | Sequence[Any] | Any, names: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> Tensor:
        """Which of some names, in words, fits each image.

        Args:
            images: As for ``encode_image``.
            names: K class names.
            templates: Prompts, each with one ``{}`` for the name; a class is their mean.

        Returns:
            (B, K) probabilities, each row adding to 1.
        """
        prepared = self.prepare([[template.replace("{}", name) for template in templates] for name in names])
        return (self.head.logit_scale.exp() * self.class_scores(images, prepared)).softmax(-1)

    def resolved(self) -> dict[str, Any]:
        """The head as made, its widths left to the towers."""
        return {**super().resolved(), "head": Factory(self.head, ("image_width", "text_width"))}

    @property
    def _device(self) -> torch.device:
        return self.head.logit_scale.device
