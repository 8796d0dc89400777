"""Sums over the similarities of a large batch, a strip of rows at a time: exact, the whole block never in memory.

A block of B rows and N columns is made twice, or once where the loss is a plain sum over pairs, and thrown away strip
by strip: memory is O(tile * N + (B + N) * D). Own pairs, row i with column ``offset + i``, are kept out of the sums, so
that a loss near zero and its gradient do not drown in the rounding of one minus one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from clipkit.types import ArgumentError

__all__ = ["STRIP", "at_once", "check_tile", "negatives_logsumexp", "pair_losses", "softplus_exact", "strip_rows"]

STRIP = 2**22
"""Similarities in a strip whose rows are not said: 16 MiB in fp32, which caches still hold."""
COMPILED = 2**26
"""The largest block whose strips a compiler is shown; it keeps them all in memory, and unrolls the loop over them."""

_EXACT = 80.0
"""Above it log(1 + exp(x)) is x in any floating type; PyTorch's own threshold of 20 is for fp32 alone."""


class _Strip(NamedTuple):
    """Some rows of the block."""

    rows: slice
    logits: Tensor  # (t, N), overwritten by the next strip
    image: Tensor  # (t, D), times the scale
    own: tuple[Tensor, Tensor]  # where in ``logits`` own pairs are


def check_tile(tile: int | None) -> None:
    """Refuse a strip of no rows.

    Raises:
        ArgumentError: For ``tile``.
    """
    if tile is not None and tile < 1:
        raise ArgumentError("tile", f"{tile} is not at least 1 row; None chooses a size that fits")


def at_once(image: Tensor, text: Tensor, tile: int | None, most: int) -> bool:
    """Whether the similarities of the rows (B, D) and (N, D) are made by plain operations: up to so many, if not told.

    Never in a compiled step: compilers trace the backward pass of plain operations under the autocast of the forward
    pass, and the gradients would be rounded.
    """
    return tile is None and not torch.compiler.is_compiling() and len(image) * len(text) <= most


def strip_rows(rows: int, columns: int, tile: int | None) -> int:
    """Rows of a strip: ``tile``, or as many as fill ``STRIP``; never more than there are."""
    check_tile(tile)
    return max(1, min(rows, STRIP // max(columns, 1) if tile is None else tile))


def softplus_exact(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to rounding in fp64 as well."""
    return softplus(x, threshold=_EXACT)


def negatives_logsumexp(
    image: Tensor, text: Tensor, logit_scale: Tensor, offset: int, tile: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps over all pairs but own ones, and own pairs' logits; 8 B N D operations with the backward pass.

    Args:
        image: (B, D).
        text: (N, D).
        logit_scale: Scalar or (1,).
        offset: Column of the first row's own pair.
        tile: Rows of a strip; None for a size that fits.

    Returns:
        (B,) by row, (N,) by column, both -inf where there is no other pair, and (B,) the own pairs; at least in fp32.

    Raises:
        ArgumentError: For a tile of no rows.
    """
    found: Any = _apply(_Negatives, image, text, logit_scale, offset, tile=tile)
    return cast("tuple[Tensor, Tensor, Tensor]", found)


def pair_losses(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    concepts: tuple[Tensor, Tensor] | None,
    offset: int,
    tile: int | None,
) -> Tensor:
    """Sum over all pairs of log(1 + exp(-sign * logit)); 6 B N D operations, gradients made with the value.

    Args:
        image: (B, D).
        text: (N, D).
        logit_scale: Scalar or (1,).
        logit_bias: Scalar or (1,).
        concepts: Ids (B,) and (N,), the sign is +1 where they are equal; None for own pairs alone.
        offset: Column of the first row's own pair.
        tile: Rows of a strip; None for a size that fits.

    Returns:
        Scalar, at least in fp32.

    Raises:
        ArgumentError: For a tile of no rows.
    """
    found: Any = _apply(_Pairs, image, text, logit_scale, logit_bias, concepts, offset, tile=tile)
    return cast("Tensor", found)


def _apply(function: type[torch.autograd.Function], image: Tensor, text: Tensor, *rest: Any, tile: int | None) -> Any:
    """In the graph of a compiled step, or beside it where a graph would take the memory that strips are to save."""
    if torch.compiler.is_compiling() and (tile is not None or len(image) * len(text) > COMPILED):
        return _uncompiled(function, image, text, *rest, tile)
    return function.apply(image, text, *rest, tile)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # PyTorch's has no types
def _uncompiled(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)


class _Block:
    """The scaled similarities of all rows with all columns, in strips."""

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, offset: int, tile: int | None) -> None:
        self.dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
        self.image, self.text, self.scale = image.to(self.dtype), text.to(self.dtype), scale.to(self.dtype).reshape(())
        self.offset, self.tile = offset, strip_rows(len(image), len(text), tile)
        self.spare = self.image.new_empty(self.tile, len(text))  # for what is computed from a strip

    def strips(self) -> Iterator[_Strip]:
        """From the first row on."""
        buffer, every = torch.empty_like(self.spare), torch.arange(self.tile, device=self.image.device)
        for start in range(0, len(self.image), self.tile):
            rows = slice(start, min(start + self.tile, len(self.image)))
            image = self.image[rows] * self.scale
            logits = torch.mm(image, self.text.T, out=buffer[: len(image)])
            lines = every[: len(image)]
            yield _Strip(rows, logits, image, (lines, lines + self.offset + start))


class _Gradients:
    """Of a sum over pairs, added up strip by strip; each is made only where it is wanted."""

    def __init__(self, block: _Block, wanted: tuple[bool, ...]) -> None:
        image, text, scale = wanted[:3]
        self.block, self.scale = block, scale
        self.image = torch.empty_like(block.image) if image or (scale and not text) else None
        self.text = torch.zeros_like(block.text) if text else None

    def add(self, strip: _Strip, gradient: Tensor) -> None:
        """Of a strip, by its logits (t, N)."""
        if self.image is not None:
            torch.mm(gradient, self.block.text, out=self.image[strip.rows]).mul_(self.block.scale)
        if self.text is not None:
            torch.addmm(self.text, gradient.T, strip.image, out=self.text)

    def by_scale(self) -> Tensor | None:
        """The sum of gradient times similarity, from what is there already."""
        if not self.scale:
            return None
        one, other = (self.image, self.block.image) if self.image is not None else (self.text, self.block.text)
        assert one is not None
        return torch.dot(one.flatten(), other.flatten()) / self.block.scale


def _like(gradient: Tensor | None, leaf: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(leaf.dtype).reshape(leaf.shape)


class _Negatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        image, text, scale, offset, tile = args
        with torch.autocast(image.device.type, enabled=False):
            block = _Block(image, text, scale, offset, tile)
            rows, own = block.image.new_empty(len(image)), block.image.new_empty(len(image))
            columns = block.image.new_full((len(text),), -torch.inf)
            for strip in block.strips():
                own[strip.rows] = strip.logits[strip.own]
                strip.logits[strip.own] = -torch.inf
                rows[strip.rows] = _logsumexp(strip.logits, 1, block.spare)
                torch.logaddexp(columns, _logsumexp(strip.logits, 0, block.spare), out=columns)
        ctx.save_for_backward(image, text, scale, rows, columns)
        ctx.offset, ctx.tile = offset, tile
        return rows, columns, own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, rows, columns = ctx.saved_tensors
        by_row, by_column, by_own = grads
        with torch.autocast(image.device.type, enabled=False):
            block = _Block(image, text, scale, ctx.offset, ctx.tile)
            found, lowest = _Gradients(block, ctx.needs_input_grad), torch.finfo(block.dtype).min
            rows, columns = rows.clamp(min=lowest)[:, None], columns.clamp(min=lowest)
            for strip in block.strips():
                logits, spare = strip.logits, block.spare[: len(strip.logits)]
                logits[strip.own] = -torch.inf
                torch.sub(logits, columns, out=spare).exp_().mul_(by_column)
                logits.sub_(rows[strip.rows]).exp_().mul_(by_row[strip.rows, None]).add_(spare)
                logits[strip.own] = by_own[strip.rows]
                found.add(strip, logits)
            by_scale = found.by_scale()
        image_gradient = found.image if ctx.needs_input_grad[0] else None
        return _like(image_gradient, image), _like(found.text, text), _like(by_scale, scale), None, None


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        image, text, scale, bias, concepts, offset, tile = args
        wanted = ctx.needs_input_grad
        with torch.autocast(image.device.type, enabled=False):
            block = _Block(image, text, scale, offset, tile)
            found, total = _Gradients(block, wanted), block.image.new_zeros(())
            by_bias = torch.zeros_like(total)
            for strip in block.strips():
                logits, positive = strip.logits.add_(bias.to(block.dtype)), _positive(strip, concepts)
                _negate(logits, positive)  # what is small for a pair that is told right
                total += softplus_exact(logits).sum()
                if any(wanted):
                    gradient = torch.sigmoid(logits, out=block.spare[: len(logits)])
                    _negate(gradient, positive)
                    by_bias += gradient.sum()
                    found.add(strip, gradient)
            by_scale = found.by_scale()
        gradients = found.image if wanted[0] else None, found.text, by_scale, by_bias if wanted[3] else None
        leaves = image, text, scale, bias
        ctx.save_for_backward(*(_like(*both) for both in zip(gradients, leaves, strict=True)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own = (None if gradient is None else gradient * grads[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return *own, None, None, None


def _positive(strip: _Strip, concepts: tuple[Tensor, Tensor] | None) -> Any:
    return strip.own if concepts is None else concepts[0][strip.rows, None] == concepts[1]


def _negate(values: Tensor, which: Any) -> None:
    """Change signs in place, by places or by a mask; to index by a mask is slow, and on a GPU waits for the device."""
    if isinstance(which, Tensor):
        torch.where(which, -values, values, out=values)
    else:
        values[which] *= -1


def _logsumexp(logits: Tensor, axis: int, spare: Tensor) -> Tensor:
    """As ``Tensor.logsumexp``, in memory that is there already."""
    top = logits.amax(axis, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
    terms = torch.sub(logits, top, out=spare[: len(logits)]).exp_()
    return terms.sum(axis).log_().add_(top.squeeze(axis))
