"""Sharded checkpoints: a folder with a file a rank, as PyTorch writes it; made one file again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.load import _load_distributed_checkpoint

from clipkit.checkpoints.files import DurableCheckpointIO
from clipkit.checkpoints.manifest import digest_of, entry_of, is_damaged, publish

__all__ = ["consolidate", "is_sharded", "publish_folder"]

METADATA = "meta.pt"
"""What Lightning writes beside the shards: all that is no tensor of the model or the optimiser."""


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a sharded checkpoint."""
    return (Path(path) / METADATA).is_file()


def publish_folder(
    partial: Path, final: Path, checkpoint: Mapping[str, Any], finite: bool, experiment: str = ""
) -> None:
    """Flush a folder of shards, enter it into the manifest and give it its name.

    Args:
        partial: Where every rank has written its shard.
        final: Its name, in the same folder.
        checkpoint: What is in it beside the shards.
        finite: Whether every weight of every rank is finite.
        experiment: What it is of.

    Raises:
        OSError: Where the disk refuses.
    """
    for place in (*partial.iterdir(), partial):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    publish(partial, final, entry_of(checkpoint, digest_of(partial), partial, finite, experiment))


def consolidate(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> None:
    """Make one file of a sharded checkpoint: what the same run would have saved in one, for any strategy to go on from.

    The whole checkpoint has to fit into memory. Its index is a pickle of torch's: consolidate only what you trust.

    Args:
        folder: The sharded checkpoint.
        file: What to write.

    Raises:
        FileNotFoundError: Where the folder is none.
        OSError: Where it is damaged, or the file cannot be written.
    """
    place = Path(folder)
    if not is_sharded(place):
        raise FileNotFoundError(f"{os.fspath(folder)!r} is no folder of a sharded checkpoint: it has no {METADATA}")
    if is_damaged(place):
        raise OSError(f"{os.fspath(folder)!r} is damaged: it is not what was written")
    content = _load_distributed_checkpoint(place)
    keys = sorted((key for key in content if re.fullmatch(r"optimizer_\d+", key)), key=lambda key: int(key[10:]))
    content["optimizer_states"] = [_numbered(content.pop(key)) for key in keys]
    writer = DurableCheckpointIO()
    writer.save_checkpoint(content, file)
    if writer.failed:  # which it has said
        raise OSError(f"{os.fspath(file)!r} could not be written")


def _numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state by parameters' names, as its own ``state_dict`` has it: by their numbers in its groups."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: index for index, name in enumerate(names)}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: values for name, values in state["state"].items()}, "param_groups": groups}
