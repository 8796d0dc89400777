"""Two towers and a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipkit.data import pixels
from clipkit.functional import class_embeddings
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
            images: PIL images, paths or arrays, resized and cropped; or tensors of the model's size, (B, 3, H, W) or
                several of (3, H, W), uint8 or already normalised floats. One or several.
            normalize: Whether to bring embeddings to unit length.

        Returns:
            (B, embed_dim).
        """
        return self.head.project_image(self.vision(self._pixels(images)), normalize)

    def encode_text(self, texts: str | Sequence[str], normalize: bool = True) -> Tensor:
        """Embed captions: one string or several, to (B, embed_dim)."""
        tokens, mask = self.tokenizer([texts] if isinstance(texts, str) else texts)
        return self.encode_tokens(tokens.to(self._device), mask.to(self._device), normalize)

    def encode_tokens(self, tokens: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        """Embed captions already tokenized: (B, L) ids and mask to (B, embed_dim)."""
        return self.head.project_text(self.text(tokens, mask), normalize)

    def prepare(self, classes: Sequence[Sequence[str]]) -> Tensor:
        """What ``class_scores`` needs of K classes, each named by one or more prompts.

        Returns:
            (K, embed_dim): the mean of the normalised prompt embeddings, renormalised (CLIP, section 3.1.4).

        Raises:
            ValueError: For no class, or a class without a prompt.
        """
        sizes = [len(prompts) for prompts in classes]
        if not sizes or 0 in sizes:
            raise ValueError("give at least one class, and each class at least one prompt")
        flat = [prompt for prompts in classes for prompt in prompts]
        parts = [self.encode_text(flat[i : i + 512], normalize=False) for i in range(0, len(flat), 512)]
        return class_embeddings(torch.cat(parts), sizes)

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

        Raises:
            ValueError: For no name, no template, or a template with no place for the name.
        """
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"the template {template!r} has no {{}} for the name")
        prepared = self.prepare([[template.replace("{}", name) for template in templates] for name in names])
        return (self.head.logit_scale.exp() * self.class_scores(images, prepared)).softmax(-1)

    def resolved(self) -> dict[str, Any]:
        """The head as made, its widths left to the towers."""
        return {**super().resolved(), "head": Factory(self.head, ("image_width", "text_width"))}

    def _pixels(self, images: Tensor | Sequence[Any] | Any) -> Tensor:
        if isinstance(images, list | tuple) and images and all(isinstance(image, Tensor) for image in images):
            images = torch.stack(list(images))
        return pixels(images, self.inputs).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.head.logit_scale.device
