"""A large batch in micro-batches: what a sample costs, and what memory the whole takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import normalize

from clipkit.benchmarking.memory import peak_memory
from clipkit.benchmarking.rows import Row, from_seconds, quotient
from clipkit.benchmarking.timing import interleaved, repeated, wait
from clipkit.heads import ContrastiveHead
from clipkit.models import DualEncoder
from clipkit.objectives import InfoNCE
from clipkit.tasks.micro_batches import in_micro_batches
from clipkit.towers import ClipTextTower, TimmTower
from clipkit.types import Embeddings, ImageTextBatch

__all__ = ["measure_batch"]

SIZE = 64
"""Pixels a side."""
WIDTH = 64
"""Of the embeddings."""
WHOLE = 1024
"""The memory of a batch that is not split is measured at this size, and grows with it."""
ACCUMULATED = 4096
"""The largest batch that another's accumulation is held against: its loss is made whole for every micro-batch."""

Step = Callable[[], None]
Accumulating = Callable[[DualEncoder, ImageTextBatch, int], Step]


def measure_batch(
    batch: int, micro_batch: int, rounds: int, blocks: int, rival: Accumulating | None = None
) -> list[Row]:
    """Measure value and gradient of a ViT-Ti/16 at 64 pixels and a small text tower, on the device there is.

    Args:
        batch: Samples in the large batch.
        micro_batch: Samples that the model sees at a time, and the small batch that the large one is held against.
        rounds: How often each is timed.
        blocks: Of the vision tower.
        rival: Another's step of a large batch in small ones.

    Returns:
        Time a sample beside the small batch's; what is more in it, the forward pass that is run again and the larger
        loss, as shares of the small batch's; and memory beside what the large batch would take at once. With a rival,
        before these, time a sample and memory beside its own, at no more than 4,096 pairs.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _tiny(blocks).to(device)
    large, small = (_batch(rows).to(device) for rows in (batch, micro_batch))
    times = max(1, min(batch // micro_batch, 32))  # as one small step is soon over
    beside = [] if rival is None else _beside(model, large.part(slice(ACCUMULATED)), micro_batch, rounds, rival)
    taken = interleaved(
        {
            "small": repeated(_step(model, small, None), times),
            "large": _step(model, large, micro_batch),
            "forward": repeated(_forward(model, small), times),
            "loss": _loss(large),
        },
        rounds,
    )
    rows = {"small": micro_batch, "large": batch, "forward": micro_batch, "loss": batch}
    a_sample = {side: [one / rows[side] for one in seconds] for side, seconds in taken.items()}
    what, base = f"{batch:,} pairs in micro-batches of {micro_batch}", f"a batch of {micro_batch}"

    def row(what: str, side: str) -> Row:
        return from_seconds(what, base, {"theirs": a_sample["small"], "ours": a_sample[side]})

    fewer = min(WHOLE, batch)
    alone = batch / fewer * peak_memory(_step(model, _batch(fewer).to(device), None))
    here = peak_memory(_step(model, large, micro_batch))
    return [
        *beside,
        row(f"{what}, a sample", "large"),
        row("of it, the forward pass that is run again", "forward"),
        row(f"of it, the loss of {batch:,}", "loss"),
        quotient(f"{what}, peak", "at once", alone / 2**20, here / 2**20, "MiB"),
    ]


def _beside(model: DualEncoder, batch: ImageTextBatch, rows: int, rounds: int, rival: Accumulating) -> list[Row]:
    pairs = len(batch.image)
    what, base = f"{pairs:,} pairs in micro-batches of {rows}", "open_clip's --accum-freq"
    sides = {"theirs": rival(model, batch, rows), "ours": _step(model, batch, rows)}
    a_sample = {side: [one / pairs for one in taken] for side, taken in interleaved(sides, rounds).items()}
    theirs, ours = (peak_memory(_without_gradients(step, model)) / 2**20 for step in sides.values())
    return [from_seconds(f"{what}, a sample", base, a_sample), quotient(f"{what}, peak", base, theirs, ours, "MiB")]


def _without_gradients(step: Step, model: DualEncoder) -> Step:
    def run() -> None:
        step()
        model.zero_grad()  # kept, they would be there before the next step already

    return run


def _tiny(blocks: int) -> DualEncoder:
    """Tiny beside what is trained, but not beside the loss, whose 8 B D operations a sample no splitting saves."""
    torch.manual_seed(0)
    vision = TimmTower("vit_tiny_patch16_224", image_size=SIZE, timm_kwargs={"depth": blocks})
    text = ClipTextTower(width=64, layers=2, heads=2, context_length=16)
    return DualEncoder(vision, text, partial(ContrastiveHead, embed_dim=WIDTH))


def _batch(rows: int) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (rows, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(3, 4000, (rows, 16), generator=generator)
    tokens[:, -1] = 2  # the end
    ids = torch.arange(rows)
    return ImageTextBatch(image, tokens, torch.ones_like(tokens, dtype=torch.bool), ids, ids, {})


def _step(model: DualEncoder, batch: ImageTextBatch, rows: int | None) -> Step:
    objective, parameters = InfoNCE(), list(model.parameters())

    def run() -> None:
        outputs = model(batch) if rows is None else in_micro_batches(model, batch, rows)
        torch.autograd.grad(objective(outputs, batch).loss, parameters)
        wait(batch.image.device)

    return run


def _forward(model: DualEncoder, batch: ImageTextBatch) -> Step:
    def run() -> None:
        model(batch)  # with what a backward pass would need, as it is run again
        wait(batch.image.device)

    return run


def _loss(batch: ImageTextBatch) -> Step:
    device, rows = batch.image.device, len(batch.image)
    image, text = (normalize(torch.randn(rows, WIDTH, device=device), dim=-1).requires_grad_() for _ in range(2))
    outputs, objective = Embeddings(image, text, torch.tensor(1 / 0.07, device=device)), InfoNCE()

    def run() -> None:
        torch.autograd.grad(objective(outputs, batch).loss, (image, text))
        wait(device)

    return run
