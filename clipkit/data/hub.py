"""Data sets of the hub and folders in its layout: what the library finds there, before it reads any of it."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import datasets
import huggingface_hub
from datasets import BuilderConfig, DatasetBuilder
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.csv.csv import Csv, CsvConfig
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub.errors import OfflineModeIsEnabled

from clipkit.data.local import near_path
from clipkit.data.patterns import is_pattern
from clipkit.types import ArgumentError

__all__ = ["hub_builder", "in_words", "is_hub_id", "refuse_archives", "tables_by_split", "tars_by_split"]


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a data set of the hub: ``owner/name``, and neither a path nor an address."""
    plain = name.count("/") == 1 and "://" not in name and not name.startswith((".", "/", "~", "emoji/"))
    return plain and not Path(name).exists() and not is_pattern(name)


def hub_builder(name: str) -> DatasetBuilder:
    """What the library would make a data set of the hub with; of its files only the card is read.

    Raises:
        ArgumentError: For ``train``, where the hub is out of reach, or has nothing of that name that can be read.
    """
    near = near_path(Path(name)) if Path(name).parent.is_dir() else ""
    try:
        # Asked once: the library would ask an unreachable hub six times, in 24 seconds.
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except OfflineModeIsEnabled:
        pass  # there may be a copy in the cache
    except Exception as error:  # whatever the hub's client uses for HTTP
        message = f"{name!r} is no file or folder here{near}, and the hub gave none of that name"
        hint = "; HF_HUB_OFFLINE=1 uses a copy downloaded before"
        raise ArgumentError("train", f"{message} ({in_words(error)}){hint}") from error
    try:
        return datasets.load_dataset_builder(name)
    except Exception as error:  # readers raise anything
        message = f"{name!r} is no file or folder here{near}, and no hub data set that can be read"
        raise ArgumentError("train", f"{message} ({in_words(error)})") from error


def tars_by_split(builder: DatasetBuilder) -> dict[str, list[str]] | None:
    """Split to its tar archives, paths or ``hf://`` addresses; None where the library would read something else."""
    return _files(builder) if isinstance(builder, WebDataset) else None


def tables_by_split(builder: DatasetBuilder) -> dict[str, list[str]] | None:
    """The same of files of rows, where the card says nothing of how they are to be read.

    Of parquet and Arrow it may: what columns are stands in these files, too.
    """
    told_within = isinstance(builder, Parquet | Arrow)
    if not (told_within or (isinstance(builder, Csv | Json) and builder.info.features is None)):
        return None
    files, told, usual = _files(builder), builder.config, type(builder.config)()
    if isinstance(told, CsvConfig) and all(file.endswith(".tsv") for one in files.values() for file in one):
        usual = CsvConfig(sep="\t")
    options = {field.name for field in fields(told)} - {field.name for field in fields(BuilderConfig)}
    return files if all(getattr(told, name) == getattr(usual, name) for name in options) else None


def _files(builder: DatasetBuilder) -> dict[str, list[str]]:
    return {str(split): [str(file) for file in files] for split, files in (builder.config.data_files or {}).items()}


def refuse_archives(builder: DatasetBuilder, name: str) -> None:
    """Refuse what is not read by index: tar archives, and those that the library would unpack to disk.

    Raises:
        ArgumentError: For ``train``, where a data set has any.
    """
    tars = [file for files in (tars_by_split(builder) or {}).values() for file in files]
    if tars:
        raise ArgumentError(
            "train",
            f"{name!r} holds tar archives, which are streamed and have no index; to train on them beside other files "
            f"name them, as in {os.path.dirname(tars[0])}/*.tar",
        )
    files = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    packed = next((file for file in files if urlsplit(file).path.lower().endswith(".zip")), None)
    if packed is not None:
        how = "give `streaming: true`, which reads within it, or unpack it yourself"
        raise ArgumentError("train", f"{name!r} has an archive, {packed}, that would be unpacked to disk: {how}")


def in_words(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
