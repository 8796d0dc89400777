"""How ranks share a model, and its batch norms, where Lightning's own ways do not do; plain copies are its ``ddp``."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies import ModelParallelStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.constants import default_pg_timeout
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from clipkit.checkpoints import DurableCheckpointIO, is_damaged, is_sharded, partial_of, publish_folder
from clipkit.types import ArgumentError

__all__ = ["FSDP2", "SyncBatchNorm"]

log = logging.getLogger("clipkit")


class FSDP2(ModelParallelStrategy):
    """Weights, gradients and moments sharded over all ranks (FSDP2, PyTorch FSDP, arXiv 2304.11277).

    Lightning's ``ModelParallelStrategy`` with all devices in one data-parallel group, where its own defaults split
    nothing; which blocks are sharded, the task's ``configure_model`` says. Runs on CPUs, too.

    A checkpoint is one file, the same as under any other strategy, optimiser included, so that a run may go on under
    another one.

    Args:
        save_distributed_checkpoint: Save a folder to which each rank writes its own part, for models that do not fit
            into one rank's memory. ``clipkit consolidate`` makes one file of it.
        process_group_backend: ``nccl``, ``gloo``; ``null`` for what fits the device.
        timeout: How long a rank waits for the others.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._failed = False

    def setup_environment(self) -> None:
        """Put all devices into one data-parallel group, and synchronise batch norms before anything is sharded.

        Raises:
            ArgumentError: For a callback that averages weights.
        """
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        assert self.lightning_module is not None  # Lightning connects it before
        callbacks: list[Callback] = self.lightning_module.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            message = (
                "an average of weights is a whole copy, which no rank has here: leave it out, or use `strategy: ddp`"
            )
            raise ArgumentError("trainer.callbacks", message)
        if self._layer_sync is not None and self.model is not None:  # Lightning leaves it out under this strategy
            self.model = self._layer_sync.apply(self.model)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on rank 0, parameters by number as under any other strategy; each rank's part if sharded.

        Lightning numbers parameters in the model's order and not in that of the optimiser's groups, so that moments
        would come to other parameters.
        """
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        return cast("dict[str, Any]", tree_map_only(Tensor, self._whole, optimizer.state_dict()))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a file as every strategy does, or a folder: beside, flushed, then renamed."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        final = Path(self.broadcast(filepath))
        partial = partial_of(final)
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        finite = self.reduce_boolean_decision(_finite(checkpoint["state_dict"]), all=True)  # waits for rank 0, too
        self._failed = False
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
            if self.is_global_zero:
                publish_folder(partial, final, checkpoint, finite, getattr(self.checkpoint_io, "experiment", ""))
        except (OSError, RuntimeError, CheckpointException) as error:
            self._failed = True
            shutil.rmtree(partial, ignore_errors=True)
            log.warning("%s was not saved (%s); the run goes on, and what was saved before stays", final, error)
        self.barrier()

    def remove_checkpoint(self, filepath: Any) -> None:
        """Remove one that is no longer among the best, unless the save that was to replace it failed."""
        if not self._failed:
            super().remove_checkpoint(filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Restore model and optimiser from a file, of whichever strategy, or from a folder of shards.

        Raises:
            OSError: Where it is not there, or is not what was written.
        """
        path = Path(self.broadcast(checkpoint_path))
        if is_damaged(path):
            raise OSError(f"{str(path)!r} is damaged: it is not what was written; give the one before")
        if isinstance(self.checkpoint_io, DurableCheckpointIO):
            self.checkpoint_io.resumed = path
        if is_sharded(path):
            return super().load_checkpoint(path, weights_only)
        # Mapped, so that the ranks of a machine hold one copy between them.
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
        assert self.model is not None  # Lightning restores after it has set the model up
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=self.lightning_module.strict_loading)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            optimizer.load_state_dict(_shared_out(state, optimizer))
        return checkpoint

    def _whole(self, value: Tensor) -> Tensor | None:
        if isinstance(value, DTensor):
            value = value.full_tensor()  # every rank takes part
        return value.cpu() if self.is_global_zero else None


class SyncBatchNorm(TorchSyncBatchNorm):
    """What ``trainer.sync_batchnorm: true`` stands for: batch norms that see the batch of all devices.

    By timm's conversion: torch's, which Lightning uses, leaves the activation out that EfficientNets and many others
    have in their norms, with no word of it. On one device and in evaluation it is a plain batch norm.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert in place."""
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # it has no types
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave it: what torch makes of it in turn would have lost the same."""
        return model


def _shared_out(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's whole state as the part that this rank has of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(value: Any, of: Tensor) -> Any:
        if not isinstance(of, DTensor) or not isinstance(value, Tensor) or value.shape != of.shape:
            return value  # the number of steps
        whole = value.to(of.device).contiguous()  # which every rank has; a copy of its part, for a view would keep it
        return distribute_tensor(whole, of.device_mesh, of.placements, src_data_rank=None).clone()

    moments = {
        number: {name: part(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": moments}


def _finite(weights: Mapping[str, Any]) -> bool:
    """Whether this rank's part of the weights is finite."""
    parts = [value.to_local() if isinstance(value, DTensor) else value for value in weights.values()]
    floats = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in floats)
