"""What every evaluator agrees on: the contract, how a model is held still, and how a set is shared among ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast

import torch
from datasets import Dataset
from PIL.Image import Image
from torch import Tensor, nn

from clipkit.data.columns import require_columns
from clipkit.data.source import load_rows
from clipkit.distributed import rank, world_size
from clipkit.types import ArgumentError

__all__ = [
    "Evaluator",
    "PairEncoder",
    "Rankings",
    "Scorer",
    "Share",
    "as_pair_encoder",
    "as_scorer",
    "held_still",
    "open_rows",
    "shares",
]


class Evaluator(Protocol):
    """Anything that is called with a model and answers with named figures; a plain function will do.

    An evaluator may also have ``artifacts``, a dict of what its last call leaves to make pictures from (``Rankings``,
    ``Confusion`` lists); read it with ``getattr(evaluator, "artifacts", {})``. Every rank makes the call, and every
    rank gets the same figures. The model is left as it was found: weights, training flags, gradients.
    """

    def __call__(self, model: nn.Module, /) -> dict[str, float]:
        """Score a model: metric name to value."""
        ...


class Scorer(Protocol):
    """What zero-shot classification needs of a model, whatever it was trained with."""

    def prepare(self, classes: list[list[str]]) -> object:
        """The prompts of each of K classes, made into whatever ``class_scores`` wants."""
        ...

    def class_scores(self, images: list[Image], prepared: Any) -> Tensor:
        """(B, K), higher is likelier, any sign."""
        ...


class PairEncoder(Protocol):
    """What retrieval needs of a model: both sides in one space, compared by dot product."""

    def encode_image(self, images: list[Image]) -> Tensor:
        """(B, D), normalised."""
        ...

    def encode_text(self, texts: list[str]) -> Tensor:
        """(C, D), normalised."""
        ...


class Rankings(NamedTuple):
    """The best candidates of some queries, best first; ids are row numbers, or class numbers where classes are ranked.

    Attributes:
        query: (Q,) int64.
        top: (Q, k) int64.
        score: (Q, k).
        right: (Q, k) bool.
    """

    query: Tensor
    top: Tensor
    score: Tensor
    right: Tensor


class Share(NamedTuple):
    """One batch of an evaluated set.

    Attributes:
        position: (B,) int64, row numbers in the whole set.
        columns: Column name to B values.
        counts: False where this rank only keeps step with the others: run the model, drop the result.
    """

    position: Tensor
    columns: dict[str, list[Any]]
    counts: bool


def as_scorer(model: nn.Module) -> Scorer:
    """The model as something that scores classes.

    Raises:
        TypeError: It has no ``prepare`` or no ``class_scores``.
    """
    _require(model, "zero-shot classification", ("prepare", "class_scores"))
    return cast("Scorer", model)


def as_pair_encoder(model: nn.Module) -> PairEncoder:
    """The model as something that encodes images and texts.

    Raises:
        TypeError: It has no ``encode_image`` or no ``encode_text``.
    """
    _require(model, "retrieval", ("encode_image", "encode_text"))
    return cast("PairEncoder", model)


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """Eval mode with no gradients; afterwards every submodule has the training flag it had before, frozen ones too."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: what a module or FSDP makes once and keeps would be of no use to training (pytorch#95957).
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def shares(rows: Dataset, batch_size: int) -> Iterator[Share]:
    """This rank's batches: whole batches in turn, the same ones whatever the number of ranks, none twice.

    A batch is made of the same rows on one rank and on many, so its scores are the same to the last bit. Where batches
    do not come out even, the ranks left over get the first batch with ``counts`` false: every rank then calls the model
    equally often, which sharded models need since they gather their weights in each call.

    Args:
        rows: The whole set, the same on every rank.
        batch_size: Rows a batch; the last one may be shorter.

    Yields:
        One share a turn.

    Raises:
        ValueError: There is no row.
    """
    if not len(rows):
        raise ValueError("there is no row to evaluate")
    batches = -(-len(rows) // batch_size)
    for turn in range(0, batches, world_size()):
        counts = turn + rank() < batches
        start = (turn + rank()) * batch_size if counts else 0
        stop = min(start + batch_size, len(rows))
        yield Share(torch.arange(start, stop), rows[start:stop], counts)


def open_rows(argument: str, source: str | Dataset, columns: Sequence[str], split: str = "train") -> Dataset:
    """Rows by name or as they are, with nothing but some columns: what is not selected is not decoded.

    Args:
        argument: The constructor's argument that named the source, for the error.
        source: A name that ``clipkit.data.load_rows`` knows, or the rows.
        columns: Names of the columns to keep.
        split: The split of a folder or hub id that has several.

    Returns:
        The rows.

    Raises:
        ArgumentError: There are no such rows, or a column is not there.
    """
    try:
        rows = load_rows(source, split) if isinstance(source, str) else source
    except ArgumentError as error:  # it blames an argument of the data module
        raise ArgumentError(argument, error.message) from error
    require_columns(rows, columns, argument)
    return rows.select_columns(list(dict.fromkeys(columns)))


def _require(model: nn.Module, purpose: str, methods: tuple[str, ...]) -> None:
    # hasattr and not a runtime protocol, which does not see the methods that a compiled module passes on
    missing = [method for method in methods if not hasattr(model, method)]
    if missing:
        raise TypeError(
            f"{purpose} needs {' and '.join(methods)}: {type(model).__name__} has no {' and no '.join(missing)}"
        )
