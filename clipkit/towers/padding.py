"""How an encoder of transformers is told which tokens are padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Form", "form_of_mask", "of_rows", "unwarned"]

Form = Callable[[Tensor], Tensor | None]
"""Makes of (B, L), true where there is a token, what an encoder takes as its ``attention_mask``."""


def form_of_mask(encoder: Any, tokens: Tensor, mask: Tensor, out: Tensor) -> Form:
    """The form that tells an encoder as little as it needs to know.

    Where attention is causal, that is nothing, as padding comes last; fast kernels take no mask. Of rows, as tokenizers
    give it, transformers asks at every step whether they are full, and waits for the device to hear it; not of keys.

    Args:
        encoder: Of transformers, in evaluation.
        tokens: (B, L), all different, some of which are padding.
        mask: (B, L), true where there is a token.
        out: (B, L, width), what the encoder makes of them with the mask of rows.
    """
    # Told of keys, local attention would see as far as the rest.
    windows = "sliding_attention" in (getattr(encoder.config, "layer_types", None) or ())
    for form in (_nothing,) if windows else (_nothing, _of_keys):
        try:
            with torch.no_grad():
                found = encoder(input_ids=tokens, attention_mask=form(mask)).last_hidden_state
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError):
            continue
        if found.shape == out.shape and torch.allclose(found[mask], out[mask], rtol=1e-4, atol=1e-5):
            return form
    return of_rows


def of_rows(mask: Tensor) -> Tensor:
    """(B, L), 1 where there is a token."""
    return mask.long()


def unwarned(*_: Any) -> None:
    """In the place of a method that warns of padding without a mask, and waits for the device to know of it."""


def _nothing(mask: Tensor) -> None:
    return None


def _of_keys(mask: Tensor) -> Tensor:
    return mask[:, None, None]  # (B, 1, 1, L), alike for all heads and queries
