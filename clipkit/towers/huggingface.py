"""Any Hugging Face text encoder as a text tower."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig

from clipkit.layers import Pool, pool_tokens
from clipkit.tokens import Tokenizer, read_tokenizer
from clipkit.towers.base import TextTower, check_vocabulary
from clipkit.towers.padding import Form, form_of_mask, of_rows, unwarned
from clipkit.types import ArgumentError, Features

__all__ = ["HuggingFaceTower"]

# Keys that transformers reads though its configurations do not list them.
UNLISTED = ("attn_implementation", "rope_scaling", "rope_theta", "torch_dtype")


class HuggingFaceTower(TextTower):
    """A ``transformers`` encoder with clipkit's own masked pooling, so that models with no pooler work too.

    Args:
        name: Hub name or local folder. Give this or ``config``.
        config: A configuration to build from scratch, its ``model_type`` included; no network. ``vocab_size`` and
            ``pad_token_id`` are the tokenizer's where it gives none.
        pretrained: Whether to load the weights of ``name``; else only its configuration.
        pool: ``first``, ``mean``, ``max``, ``last`` or ``eos``.
        tokenizer: ``emoji``, a ``tokenizer.json``, a folder or hub name; ``null`` for that of ``name``.
        context_length: The most tokens a caption may have.
        pad: ``longest`` (exact, padding is masked) or ``max_length``.
        gradient_checkpointing: Whether blocks are computed again in the backward pass, to save memory.

    Raises:
        ArgumentError: For an unknown name, model type or key, a tokenizer whose ids do not fit the embedding table, a
            context the positions do not reach, or a pooling that this encoder or tokenizer makes senseless.
    """

    def __init__(
        self,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        pool: Pool = "first",
        tokenizer: str | None = None,
        context_length: int = 77,
        pad: Literal["longest", "max_length"] = "longest",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = self.check(name, config, pool, tokenizer, context_length, pad)
        words = Tokenizer(tokenizer or str(name), context_length, pad)
        self.tokenizer, self.end_id = words.json, words.end_id
        self.context_length, self.pad, self.pool = context_length, pad, pool
        self.encoder = _pretrained(str(name), self.config) if config is None and pretrained else _made(self.config)
        self._form: Form = of_rows
        self.width = self._measure()
        if gradient_checkpointing:
            self._checkpoint_gradients()

    @classmethod
    def check(
        cls,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        pool: Pool = "first",
        tokenizer: str | None = None,
        context_length: int = 77,
        pad: Literal["longest", "max_length"] = "longest",
        **_: Any,
    ) -> PreTrainedConfig:
        """Read the configuration and refuse what cannot be, before anything is built.

        Returns:
            The configuration of the encoder.

        Raises:
            ArgumentError: Naming the argument.
        """
        if (name is None) == (config is None):
            raise ArgumentError("name", "give either `name` (a hub name or a folder) or `config` (from scratch)")
        if config is not None and tokenizer is None:
            raise ArgumentError("tokenizer", "a model from `config` has none of its own: name one, such as `emoji`")
        if pool not in get_args(Pool):
            raise ArgumentError("pool", f"{pool!r} is not one of {', '.join(get_args(Pool))}")
        # A wrong name of the whole is said of `name`, not of the tokenizer that would come from it too.
        found = None if name is None else _from_name(name)
        words = Tokenizer(read_tokenizer(tokenizer or str(name)), context_length, pad)
        settings = found or _from_config(dict(config or {}), words)
        rows_from = "config.vocab_size" if name is None else f"vocab_size of {name}"
        check_vocabulary(words, getattr(settings, "vocab_size", None), rows_from)
        if pool == "eos" and words.end_id is None:
            raise ArgumentError(
                "pool", "`eos` needs a tokenizer that ends captions with a token of its own; use `last`"
            )
        return settings

    def forward(self, tokens: Tensor, mask: Tensor) -> Features:
        """(B, L) ids and mask to features; ``Features.mask`` is the mask given."""
        out = self.encoder(input_ids=tokens, attention_mask=self._form(mask)).last_hidden_state  # (B, L, width)
        return Features(pool_tokens(out, mask, self.pool, tokens, self.end_id), out, mask)

    def resolved(self) -> dict[str, Any]:
        """The configuration and the tokenizer inlined; no name and no weights to fetch."""
        left_out = ("architectures", "dtype", "torch_dtype")
        config = {key: value for key, value in self.config.to_diff_dict().items() if key not in left_out}
        config |= {"model_type": self.config.model_type, "transformers_version": config.get("transformers_version")}
        config["attn_implementation"] = self.encoder.config._attn_implementation
        found = {"name": None, "config": config, "pretrained": False, "tokenizer": self.tokenizer}
        return {**super().resolved(), **found}

    def _checkpoint_gradients(self) -> None:
        found = self.encoder
        enable = getattr(found, "activation_checkpointing_enable", None) or found.gradient_checkpointing_enable
        try:
            enable({"use_reentrant": False})
        except ValueError as error:  # a family without it
            kind = self.config.model_type
            raise ArgumentError("gradient_checkpointing", f"a {kind} cannot compute blocks again") from error
        found.disable_input_require_grads()  # else a frozen tower, too, would be gone through backwards

    def _measure(self) -> int:
        """Width, by passes at full length that also tell whether pooling and padding do what they should."""
        words = Tokenizer(self.tokenizer)
        # Positions may count only what is no padding, which MPNet takes to be 1 whatever its configuration says.
        padding = {self.config.pad_token_id, words.pad_id, 1}
        length, half = self.context_length, (self.context_length + 1) // 2
        other, *some = islice((i for i in reversed(range(words.vocab_size)) if i not in padding), length + 1)
        # A caption, one that differs in its last word, and half of one.
        tokens = torch.tensor(list(islice(cycle(some or [other]), length))).repeat(3, 1)
        tokens[1, -1], tokens[2, half:] = other, words.pad_id
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[2, half:] = False
        try:
            with torch.no_grad():  # not inference mode: what an encoder caches here takes part in training
                out, short = self.eval()(tokens, mask), self(tokens[2:, :half], mask[2:, :half])
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
            raise self._wrong(error) from error
        self._form = form_of_mask(self.encoder, tokens, mask, out.tokens)
        kind, (one, another), trimmed = self.config.model_type, out.tokens[:2, 0], short.tokens[0]
        if self.pool == "first" and torch.allclose(one, another, rtol=0, atol=1e-7):
            raise ArgumentError(
                "pool", f"the first token of a {kind} does not see the last; use `mean`, `last` or `eos`"
            )
        if self.pad == "longest" and (out.tokens[2, :half] - trimmed).abs().max() > 1e-3 * trimmed.abs().max():
            raise ArgumentError("pad", f"padding changes what a {kind} makes of a caption; use `max_length`")
        self.train()
        return int(out.tokens.shape[-1])

    def _wrong(self, error: Exception) -> ArgumentError:
        kind, limit = self.config.model_type, getattr(self.config, "max_position_embeddings", None)
        short = torch.ones(1, 2, dtype=torch.long)
        try:
            self.encoder(input_ids=short, attention_mask=short)
        except Exception:  # not the length
            argument = "config" if self.arguments["name"] is None else "name"
            return ArgumentError(argument, f"a {kind} does not work as a text encoder: {_first_line(error)}")
        message = f"{self.context_length} tokens do not fit the {limit} positions of this {kind}"
        hint = ", some of which it keeps for padding" if limit and self.context_length <= limit else ""
        return ArgumentError("context_length", message + hint)


def _made(settings: PreTrainedConfig) -> Any:
    try:
        # Weights of fp32 whatever the configuration says: precision is the trainer's.
        made: Any = AutoModel.from_config(settings, dtype=torch.float32, trust_remote_code=False)  # type: ignore[no-untyped-call]  # it has no types
    except (ValueError, TypeError, AssertionError, RuntimeError, KeyError) as error:
        raise _unmakeable(settings.model_type, settings.to_dict(), error) from error
    return _encoder(made)


def _pretrained(name: str, settings: PreTrainedConfig) -> Any:
    try:
        made, report = AutoModel.from_pretrained(
            _place(name), config=settings, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ArgumentError("pretrained", f"the weights of {name!r} cannot be read: {_first_line(error)}") from error
    places = dict(made.named_parameters())
    encoder = _encoder(made)
    kept = {id(parameter) for parameter in encoder.parameters()}
    lost = sorted(key for key in report["missing_keys"] if key in places and id(places[key]) in kept)
    if lost:  # transformers leaves them at random, with a warning
        raise ArgumentError(
            "pretrained", f"the weights of {name!r} lack {len(lost)} of this encoder's, {lost[0]} first"
        )
    return encoder


def _encoder(model: Any) -> Any:
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model.warn_if_padding_and_no_attention_mask = unwarned
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # pooling is ours; an unused pooler would get no gradient, which DDP refuses
    return model


def _from_config(options: dict[str, Any], words: Tokenizer) -> PreTrainedConfig:
    kind = options.pop("model_type", None)
    if kind is None:
        raise ArgumentError("config", "it needs a `model_type`, such as bert")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        near = _nearest(str(kind), list(CONFIG_MAPPING))
        raise ArgumentError("config.model_type", f"transformers has no model_type {kind!r}{near}")
    if "transformers_version" not in options:  # a version's own words may name what another has not
        _check_keys(kind, options)
    fitted = {"vocab_size": words.vocab_size, "pad_token_id": words.pad_id, **options}
    try:
        return AutoConfig.for_model(kind, **fitted)
    except Exception as error:  # each version of transformers has classes of its own for this
        raise _unmakeable(kind, options, error) from error


def _unmakeable(kind: str, options: Mapping[str, Any], error: Exception) -> ArgumentError:
    """What transformers says, about the key that it names, or whose value it quotes, where that is one."""
    said = _first_line(error)
    if said.endswith(":"):  # a heading: the reason is below
        said = str(error).strip().splitlines()[-1].strip()
    text = str(error)
    about = [key for key in options if re.search(rf"\b{re.escape(key)}\b", text)]
    about = about or [key for key, value in options.items() if isinstance(value, str) and repr(value) in text]
    if isinstance(error, KeyError):
        said = f"it knows no {text}"
    key = f"config.{about[0]}" if len(about) == 1 else "config"
    return ArgumentError(key, f"transformers cannot make a {kind!r} of it: {said}")


def _check_keys(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse what transformers would keep and never read."""
    made = CONFIG_MAPPING[kind]
    listed = {*vars(made()), *inspect.signature(made).parameters, *made.attribute_map, *UNLISTED}
    code = "".join(path.read_text("utf-8") for path in Path(inspect.getfile(made)).parent.glob("modeling_*.py"))
    known = sorted(key for key in listed if not key.startswith("_"))
    for key in options:
        # Some models read keys that their configuration does not list, DeBERTa's `norm_rel_ebd` for one.
        if key not in known and not re.search(rf"\b{re.escape(key)}\b", code):
            raise ArgumentError(f"config.{key}", f"a {kind} has no {key!r}{_nearest(key, known)}")


def _from_name(name: str) -> PreTrainedConfig:
    if Path(_place(name)).is_dir() and not (Path(_place(name)) / "config.json").is_file():
        raise ArgumentError("name", f"the folder {name!r} has no config.json")
    try:
        settings: PreTrainedConfig = AutoConfig.from_pretrained(_place(name), trust_remote_code=False)
    except Exception as error:  # each kind of hub error has a class of its own
        message = f"{name!r} is no folder here and no model on the hub that can be read: {_first_line(error)}"
        raise ArgumentError("name", message) from error
    return settings


def _place(name: str) -> str:
    path = Path(name).expanduser()
    return str(path) if path.exists() else name


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
