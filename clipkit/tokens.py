"""Captions to token ids, always through the Rust tokenizer of a ``tokenizer.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor

from clipkit.types import ArgumentError

__all__ = ["Tokenizer", "read_tokenizer"]


def read_tokenizer(tokenizer: str) -> str:
    """The text of a ``tokenizer.json``.

    Args:
        tokenizer: ``emoji`` (the shipped one), a ``tokenizer.json``, a folder with one, a hub name, or the text itself.

    Returns:
        JSON text that ``tokenizers.Tokenizer.from_str`` reads.

    Raises:
        ArgumentError: Where nothing of that name can be found.
    """
    if tokenizer.lstrip().startswith("{"):
        return tokenizer
    if tokenizer == "emoji":
        return (resources.files("clipkit") / "data/assets/emoji/tokenizer.json").read_text(encoding="utf-8")
    path = Path(tokenizer).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return _from_hugging_face(str(path) if path.is_dir() else tokenizer)


@lru_cache(maxsize=8)
def _from_hugging_face(name: str) -> str:
    from transformers import AutoTokenizer  # heavy, and not needed for a local tokenizer.json

    try:
        # Never the repository's own code, and no question on the terminal about it.
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except (OSError, ValueError, ImportError, AttributeError) as error:  # AttributeError: one written in Python
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        message = f"{name!r} is no tokenizer.json, no folder with one, not `emoji`, and no hub name that can be read"
        raise ArgumentError("tokenizer", f"{message} ({reason})") from error
    backend.no_truncation()
    if loaded.pad_token is not None:  # kept in the file, so that the id travels with it
        backend.enable_padding(pad_id=loaded.pad_token_id, pad_token=loaded.pad_token)
    return str(backend.to_str())


class Tokenizer:
    """A tokenizer with its context length and padding, one Rust call a batch.

    Args:
        tokenizer: As for :func:`read_tokenizer`.
        context_length: The most tokens a caption may have, start and end included; longer ones are cut, their end token
            kept.
        pad: ``longest`` pads to the longest caption of a batch, ``multiple_of_8`` to that rounded up, so that a GPU
            sees few shapes and code is not compiled anew for each, ``max_length`` always to ``context_length``.

    Attributes:
        json: The text of the ``tokenizer.json``.
        pad_id: The padding id the file names, else 0.

    Raises:
        ArgumentError: For a tokenizer that cannot be read, a context with no room for a word, or another ``pad``.
    """

    def __init__(self, tokenizer: str, context_length: int = 77, pad: str = "longest") -> None:
        if pad not in ("longest", "multiple_of_8", "max_length"):
            raise ArgumentError("pad", f"{pad!r} is not one of `longest`, `multiple_of_8`, `max_length`")
        self.json = read_tokenizer(tokenizer)
        self.context_length = context_length
        self.pad = pad
        self._rust = _parsed(self.json)
        padding = self._rust.padding or {}
        self.pad_id = int(padding.get("pad_id", 0))
        added = self._rust.num_special_tokens_to_add(False)
        if context_length <= added:  # below this the Rust side would not cut at all
            message = f"{context_length} leaves no room for a word beside the {added} tokens that every caption gets"
            raise ArgumentError("context_length", message)
        self._rust.no_padding()
        self._rust.enable_truncation(context_length)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask of a batch.

        Args:
            texts: B captions.

        Returns:
            ``tokens`` (B, L) int64 and ``mask`` (B, L) bool, true where a token is not padding. A caption of no tokens
            counts its first padding token, so that there is always one to attend to.
        """
        tokens, mask, _ = self.encode(texts)
        return tokens, mask

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """As a call, and (B,) bool: whether each caption had to be cut."""
        encodings = self._rust.encode_batch(list(texts))
        longest = max((len(encoding.ids) for encoding in encodings), default=1)
        if self.pad == "multiple_of_8":
            longest = min(self.context_length, 8 * math.ceil(longest / 8))
        length = self.context_length if self.pad == "max_length" else max(1, longest)
        tokens = np.full((len(encodings), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(encodings), length), dtype=bool)
        for i, encoding in enumerate(encodings):
            tokens[i, : len(encoding.ids)] = encoding.ids
            mask[i, : max(1, len(encoding.ids))] = True
        cut = torch.tensor([bool(encoding.overflowing) for encoding in encodings])
        return torch.from_numpy(tokens), torch.from_numpy(mask), cut

    @cached_property
    def end_id(self) -> int | None:
        """Id of the token that ends every caption, or None where the tokenizer adds none."""
        encoding = self._rust.encode("a")
        return int(encoding.ids[-1]) if encoding.ids and encoding.special_tokens_mask[-1] else None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, which is what an embedding table must hold."""
        return max(self._rust.get_vocab(with_added_tokens=True).values()) + 1

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some token ids, special tokens left out."""
        return str(self._rust.decode(list(tokens)))


def _parsed(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises no narrower class
        raise ArgumentError("tokenizer", f"this is not the text of a tokenizer.json: {error}") from error
