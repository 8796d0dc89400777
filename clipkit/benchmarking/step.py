"""A training step of one architecture, with the same weights and captions, beside open_clip's."""

from __future__ import annotations

import gc
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipkit.benchmarking.rows import Row, from_seconds, rate
from clipkit.benchmarking.timing import interleaved, wait
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.optim import parameter_groups
from clipkit.towers import ClipTextTower, TimmTower
from clipkit.types import ImageTextBatch

__all__ = ["ARCHITECTURES", "PRECISIONS", "Steps", "largest_batch", "measure_steps", "steps_of"]

PRECISIONS = ("fp32", "bf16")

WORDS = ["a", "the", "photo", "of", "red", "small", "dog", "two", "cats", "on", "table", "house", "near", "water"]


class Architecture(NamedTuple):
    """What both sides build.

    Attributes:
        name: open_clip's name.
        vision: timm's name of the architecture.
        vision_kwargs: What is different from it.
        text: Of the text tower.
        embed_dim: Width of the shared space.
    """

    name: str
    vision: str
    vision_kwargs: dict[str, Any]
    text: dict[str, Any]
    embed_dim: int


SMALL = Architecture(
    "ViT-S-32-alt",
    "vit_base_patch32_clip_224",
    {"embed_dim": 384, "num_heads": 6},
    {"width": 256, "layers": 10, "heads": 4},
    256,
)
BASE = Architecture("ViT-B-32", "vit_base_patch32_clip_224", {}, {"width": 512, "layers": 12, "heads": 8}, 512)
ARCHITECTURES = {one.name: one for one in (SMALL, BASE)}


class Steps(NamedTuple):
    """One side: runs a whole optimiser step and gives the loss before it."""

    model: nn.Module
    run: Callable[[], Tensor]


def steps_of(architecture: Architecture, batch: int, precision: str, device: str, compile: bool) -> dict[str, Steps]:
    """Both sides, from the same weights on the same images and captions of 5 to 16 words.

    open_clip pads to 77 tokens, clipkit to the longest caption; both train with fused AdamW.

    Raises:
        ModuleNotFoundError: Where open_clip_torch is not installed.
        RuntimeError: Where their losses in fp32 differ by more than 1e-4, so that comparing them means nothing.
    """
    import open_clip
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # that its weights are random
    theirs = open_clip.create_model(architecture.name).to(device).train()
    logging.disable(logging.NOTSET)
    ours = clipkit_model(architecture, theirs).to(device).train()
    images, tokens = _inputs(batch, open_clip.get_tokenizer(architecture.name))
    pixels = (images / 255 - _channels(ours.inputs.mean)) / _channels(ours.inputs.std)
    mask = torch.arange(tokens.shape[1]) <= tokens.argmax(1, keepdim=True)  # the end token has the largest id
    longest = int(mask.sum(1).max())
    if device != "cpu":
        longest = min(8 * math.ceil(longest / 8), tokens.shape[1])  # as the tokenizer pads for a GPU
    trimmed = ImageTextBatch(
        images, tokens[:, :longest], mask[:, :longest], torch.arange(batch), torch.arange(batch), {}
    ).to(device)
    pixels, tokens, loss, objective = pixels.to(device), tokens.to(device), ClipLoss(), InfoNCE()

    def open_clip_loss() -> Tensor:
        out: Tensor = loss(*theirs(pixels, tokens))
        return out

    def clipkit_loss() -> Tensor:
        out: Tensor = objective(ours(trimmed), trimmed).loss
        return out

    sides: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "theirs": (theirs, open_clip_loss),
        "ours": (ours, clipkit_loss),
    }
    _refuse_other_losses({name: forward for name, (_, forward) in sides.items()})
    if compile:
        for part in (theirs, ours, objective):
            part.compile()
    return {name: Steps(model, _step(model, forward, precision, device)) for name, (model, forward) in sides.items()}


def measure_steps(name: str, batch: int, rounds: int, compile: bool, precisions: Sequence[str]) -> list[Row]:
    """Time steps in some precisions, all in turn; the loss of both sides is the same before any step.

    Args:
        name: Of :data:`ARCHITECTURES`.
        batch: Pairs a step.
        rounds: Steps timed on each side.
        compile: Whether both models are compiled, and clipkit's objective, as each side's own training does.
        precisions: Of :data:`PRECISIONS`. All models are in memory at once: with one of them, larger batches fit.

    Returns:
        For each, time and images a second beside open_clip's in the same; with both, bf16 beside open_clip's fp32 too.

    Raises:
        RuntimeError: As :func:`steps_of` does.
    """
    device = _device()
    sides: dict[str, Callable[[], None]] = {}
    for precision in precisions:
        both = steps_of(ARCHITECTURES[name], batch, precision, device, compile)
        sides |= {f"{side} {precision}": partial(_timed, steps, device) for side, steps in both.items()}
    taken = interleaved(sides, rounds)
    shape = f"{name}, batch {batch}{', compiled' if compile else ''}"

    def row(theirs: str, ours: str) -> Row:
        pair = {"theirs": taken[f"theirs {theirs}"], "ours": taken[f"ours {ours}"]}
        return from_seconds(f"{shape}, {ours}", f"open_clip {theirs}", pair)

    alike = [row(precision, precision) for precision in precisions]
    mixed = [row("fp32", "bf16")] if set(PRECISIONS) <= set(precisions) else []
    return [*alike, *mixed, *(rate(one, batch) for one in alike)]


def largest_batch(name: str, compile: bool, precisions: Sequence[str]) -> int:
    """The largest power of two, from 64, of which both sides make a step on the GPU there is, both in its memory.

    Raises:
        torch.OutOfMemoryError: Where 64 are too many.
    """
    batch = 64
    try:
        _try(name, batch, compile, precisions)
        with suppress(torch.OutOfMemoryError):
            while True:
                _clean()
                _try(name, 2 * batch, compile, precisions)
                batch *= 2
    finally:
        _clean()
    return batch


def clipkit_model(architecture: Architecture, theirs: Any) -> DualEncoder:
    """The same architecture built in clipkit, with open_clip's weights."""
    vision = TimmTower(architecture.vision, timm_kwargs=architecture.vision_kwargs)
    text = ClipTextTower(**architecture.text, vocab_size=theirs.vocab_size, activation="gelu")
    text.end_id = theirs.vocab_size - 1  # of open_clip's tokenizer, which made the ids
    model = DualEncoder(vision, text, partial(ContrastiveHead, embed_dim=architecture.embed_dim))
    model.load_state_dict(dict(_renamed(theirs.state_dict())))
    return model


def _renamed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """open_clip's weights under clipkit's names."""
    exact = {
        "positional_embedding": "text.positions",
        "visual.class_embedding": "vision.backbone.cls_token",
        "visual.positional_embedding": "vision.backbone.pos_embed",
        "visual.conv1.weight": "vision.backbone.patch_embed.proj.weight",
        "visual.proj": "head.image.weight",
        "text_projection": "head.text.weight",
        "logit_scale": "head.logit_scale",
    }
    vision = {
        "visual.transformer.resblocks.": "vision.backbone.blocks.",
        "visual.ln_pre.": "vision.backbone.norm_pre.",
        "visual.ln_post.": "vision.backbone.norm.",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.in_proj_": "attn.qkv.",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    text = {"transformer.resblocks.": "transformer.blocks.", "attn.in_proj_": "attn.in_proj.", "mlp.": ""}
    shapes = {"visual.class_embedding": (1, 1, -1), "logit_scale": (1,)}
    for name, value in state.items():
        if name == "attn_mask":
            continue
        if name in exact:
            value = value.T if name in ("visual.proj", "text_projection") else value
            value = value[None] if name == "visual.positional_embedding" else value
            yield exact[name], value.reshape(shapes.get(name, value.shape))
            continue
        new = name if name.startswith("visual.") else f"text.{name}"
        for old, better in (vision if name.startswith("visual.") else text).items():
            new = new.replace(old, better)
        yield new, value


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _inputs(batch: int, tokenizer: Any) -> tuple[Tensor, Tensor]:
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    captions = [" ".join(rng.choices(WORDS, k=rng.randint(5, 16))) for _ in range(batch)]
    return torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=generator), tokenizer(captions)


def _step(model: nn.Module, forward: Callable[[], Tensor], precision: str, device: str) -> Callable[[], Tensor]:
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-5, 0.2), betas=(0.9, 0.98), eps=1e-6, fused=True)

    def run() -> Tensor:
        with torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = forward()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return run


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _clean() -> None:
    """Forget what was tried: models in circles with what compiled them, and that sizes of a batch differ."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def _try(name: str, batch: int, compile: bool, precisions: Sequence[str]) -> None:
    every = [steps_of(ARCHITECTURES[name], batch, precision, _device(), compile) for precision in precisions]
    for _ in range(2):  # the first step makes the optimiser's state, which the second has beside its activations
        for both in every:
            for steps in both.values():
                steps.run()


def _timed(steps: Steps, device: str) -> None:
    steps.run()
    wait(torch.device(device))


@torch.no_grad()
def _refuse_other_losses(forwards: Mapping[str, Callable[[], Tensor]]) -> None:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        losses = {name: float(forward()) for name, forward in forwards.items()}
    if not math.isclose(losses["theirs"], losses["ours"], abs_tol=1e-4):
        raise RuntimeError(f"the models are not the same: their losses are {losses}")
