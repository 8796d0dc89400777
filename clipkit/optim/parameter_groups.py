"""What trains, at which rate, and what decays."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from clipkit.types import ArgumentError

__all__ = ["Trainable", "parameter_groups", "set_trainable"]

Trainable = int | Literal["all", "none"]


def set_trainable(model: nn.Module, trainable: Mapping[str, Trainable]) -> None:
    """Freeze children of a model, whole or up to their last blocks; what is frozen already stays so.

    Args:
        model: A model.
        trainable: Child to ``all``, ``none``, or N for its last N blocks and what follows them.

    Raises:
        ArgumentError: For an unknown child or another word, N for a child without that many blocks, or where nothing is
            left to train.
    """
    _check_children(model, trainable, "trainable")
    for name, what in trainable.items():
        child = model.get_submodule(name)
        open_ones = {id(p) for p in _open_parameters(name, child, what)}
        for parameter in child.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in open_ones)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ArgumentError("trainable", "nothing of the model is left to train")


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    lr_scale: Mapping[str, float] | None = None,
    others: Sequence[nn.Module] = (),
) -> list[dict[str, Any]]:
    """Exactly two groups a rate: decayed, and not decayed (1-D parameters: gains, biases, the temperature).

    Args:
        model: A model whose frozen parameters have ``requires_grad`` off; they are left out.
        lr: Learning rate.
        weight_decay: Of parameters of two dimensions and more (CLIP, arXiv 2103.00020, section 2.5).
        lr_scale: Child to factor on ``lr``.
        others: Further modules, at the plain rate, such as an objective with parameters.

    Returns:
        Groups for an optimiser, ``name`` telling them apart.

    Raises:
        ArgumentError: For an unknown child, or a factor that is not above 0.
    """
    scales = {name: float(scale) for name, scale in (lr_scale or {}).items()}
    _check_children(model, scales, "lr_scale")
    for name, scale in scales.items():
        if scale <= 0:
            raise ArgumentError("lr_scale", f"{name}: {scale:g} is not above 0; to freeze it say so in `trainable`")
    rated = [(scales.get(name.split(".")[0], 1.0), parameter) for name, parameter in model.named_parameters()]
    rated += [(1.0, parameter) for module in others for parameter in module.parameters()]
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for scale, parameter in rated:
        if parameter.requires_grad:
            decay = parameter.ndim > 1
            label = f"{'decay' if decay else 'no_decay'}{'' if scale == 1 else f'_x{scale:g}'}"
            empty = {"name": label, "params": [], "lr": lr * scale, "weight_decay": weight_decay if decay else 0.0}
            groups.setdefault((scale, decay), empty)["params"].append(parameter)
    return list(groups.values())


def _open_parameters(name: str, child: nn.Module, what: Trainable) -> Iterable[nn.Parameter]:
    if what in ("all", "none"):
        return child.parameters() if what == "all" else ()
    if isinstance(what, bool) or not isinstance(what, int) or what < 0:
        raise ArgumentError("trainable", f"{name}: {what!r} is not `all`, `none` or a number of blocks")
    blocks = getattr(child, "blocks", None)
    if blocks is None:
        raise ArgumentError("trainable", f"{name} has no blocks: give `all` or `none`")
    groups = blocks()
    if what >= len(groups):
        message = f"{name} has {len(groups) - 1} blocks, fewer than {what}: give `all` to train it whole"
        raise ArgumentError("trainable", message)
    return [parameter for group in groups[len(groups) - what :] for parameter in group]


def _check_children(model: nn.Module, given: Mapping[str, Any], argument: str) -> None:
    children = [name for name, _ in model.named_children()]
    for name in given:
        if name not in children:
            near = difflib.get_close_matches(name, children, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ArgumentError(argument, f"the model has no child {name!r}{hint} (it has {', '.join(children)})")
