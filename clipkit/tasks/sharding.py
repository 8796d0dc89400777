"""Which parts of a model are gathered at a time where its parameters are shared out to ranks."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from clipkit.distributed import world_size
from clipkit.types import ArgumentError

__all__ = ["blocks", "shard"]

LISTS = (nn.ModuleList, nn.Sequential)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The items of module lists and sequences that are made of parts, the inner ones first.

    Those are timm's and Hugging Face's own blocks, and stages of them: what is in a list is run one after another.
    """
    items = [item for found in model.modules() if isinstance(found, LISTS) for item in found]
    made_of_parts = [item for item in items if not isinstance(item, LISTS) and _has_parts(item)]
    return list(dict.fromkeys(made_of_parts))[::-1]


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share a module's parameters out to the ranks (FSDP2), gathered block by block; once is enough.

    The first rank's values count, as under DDP. Methods called ``encode_...`` gather what they need, as ``forward``
    does.

    Args:
        model: A module; one with no parameters is left alone.
        mesh: Lightning's, its dimensions ``data_parallel`` and ``tensor_parallel``.

    Raises:
        ArgumentError: For a mesh that would leave ranks to train apart, or a parameter that cannot be shared out.
    """
    _refuse(model, mesh)
    if isinstance(model, FSDPModule) or not any(True for _ in model.parameters()):
        return
    for module in (*blocks(model), model):
        module.to(mesh.device_type)  # block by block, so that no device ever holds the whole
        for value in (*module.parameters(), *module.buffers()):
            if not isinstance(value, DTensor):
                value.data = value.data.contiguous()  # convolutions are channels-last, which cannot be shared out
                dist.broadcast(value.data, 0)
        fully_shard(module, mesh=mesh["data_parallel"])
    for name in dir(model):
        if name.startswith("encode_"):
            register_fsdp_forward_method(model, name)


def _refuse(model: nn.Module, mesh: DeviceMesh) -> None:
    if mesh["data_parallel"].size() != world_size():
        message = (
            f"it would share the model out to {mesh['data_parallel'].size()} of {world_size()} devices, and the others "
            "would train on their own: write `strategy: {class_path: clipkit.strategies.FSDP2}`"
        )
        raise ArgumentError("trainer.strategy", message)
    scalar = next((name for name, parameter in model.named_parameters() if parameter.ndim == 0), None)
    if scalar is not None:
        message = f"{scalar} has no dimension that could be shared out: use `strategy: ddp`, or give it the shape (1,)"
        raise ArgumentError("trainer.strategy", message)


def _has_parts(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())
