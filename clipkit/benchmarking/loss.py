"""The losses of large batches beside open_clip's: time and memory of value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipkit.benchmarking.memory import peak_memory
from clipkit.benchmarking.rows import Row, in_turn, quotient
from clipkit.benchmarking.timing import repeated, wait
from clipkit.functional import info_nce, sigmoid_loss

__all__ = ["LOSSES", "measure_losses"]

MOST_AT_ONCE = 8192
"""open_clip's memory is measured up to this batch, and grows with its square beyond."""

LOSSES = {"InfoNCE": (256, 512, 1024), "sigmoid": (256, 512)}
"""Batches of each whose similarities are all made at once, the last the largest such; held against the other way."""

Loss = Callable[..., Tensor]


def measure_losses(
    names: Sequence[str], batches: Sequence[int], memory_batch: int, width: int, rounds: int
) -> list[Row]:
    """Measure value and gradient of losses by open_clip and by clipkit, on the device there is.

    Args:
        names: Of :data:`LOSSES`.
        batches: Sizes to time.
        memory_batch: Size to measure the memory at; open_clip's is measured up to 8,192 and scaled with the square.
        width: Of embeddings, fp32.
        rounds: How often each side is timed.

    Returns:
        Times, those of a small batch made at once beside the same in strips, then memory, then by how much clipkit's
        memory grows with a batch four times as large.

    Raises:
        ModuleNotFoundError: Where open_clip_torch is not installed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs, rows = {name: pair for name, pair in _pairs().items() if name in names}, []
    for batch in batches:
        leaves = _leaves(batch, width, device)
        for name, (theirs, ours) in pairs.items():
            rows.append(
                in_turn(f"{name}, B = {batch:,}", "open_clip", _step(theirs, leaves), _step(ours, leaves), rounds)
            )
    for name, (_, ours) in pairs.items():
        for batch in LOSSES[name]:
            leaves, times = _leaves(batch, width, device), (2048 // batch) ** 2
            strip, once = (repeated(_step(loss, leaves), times) for loss in (partial(ours, tile=batch), ours))
            rows.append(in_turn(f"{name} at once, B = {batch:,}", "in one strip", strip, once, rounds))
    for name, (theirs, ours) in pairs.items():
        fewer = min(memory_batch, MOST_AT_ONCE)
        scale = (memory_batch / fewer) ** 2
        alone = scale * peak_memory(_step(theirs, _leaves(fewer, width, device)))
        here = peak_memory(_step(ours, _leaves(memory_batch, width, device)))
        quarter = peak_memory(_step(ours, _leaves(memory_batch // 4, width, device)))
        rows.append(quotient(f"{name}, peak at B = {memory_batch:,}", "open_clip", alone / 2**20, here / 2**20, "MiB"))
        what = f"{name}, peak at B = {memory_batch:,} beside {memory_batch // 4:,}"
        rows.append(quotient(what, "a quarter", quarter / 2**20, here / 2**20, "MiB"))
    return rows


def _pairs() -> dict[str, tuple[Loss, Loss]]:
    from open_clip.loss import ClipLoss, SigLipLoss

    clip, siglip = ClipLoss(), SigLipLoss()

    def concepts(image: Tensor) -> Tensor:  # as objectives give them, whether any two are alike or not
        return torch.arange(len(image), device=image.device)

    return {
        "InfoNCE": (
            lambda i, t, s, _: clip(i, t, s),
            lambda i, t, s, _, tile=None: info_nce(i, t, s, concept=concepts(i), tile=tile),
        ),
        "sigmoid": (
            siglip,
            lambda i, t, s, b, tile=None: sigmoid_loss(i, t, s, b, concept=concepts(i), tile=tile),
        ),
    }


def _leaves(batch: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    image, text = (normalize(torch.randn(batch, width, generator=generator), dim=-1) for _ in range(2))
    leaves = image, text, torch.tensor(1 / 0.07), torch.tensor(-10.0)
    return tuple(leaf.to(device).requires_grad_() for leaf in leaves)


def _step(loss: Loss, leaves: tuple[Tensor, ...]) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
        wait(leaves[0].device)

    return run
