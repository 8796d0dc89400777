"""Rows of a file that the ``datasets`` library alone can read, always from its start."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import datasets
from datasets import Features, IterableDataset

from clipkit.data.connections import is_served
from clipkit.data.remote import is_remote
from clipkit.data.sharded import Begin, Row
from clipkit.data.source import READERS, options_of, quiet

__all__ = ["library_features", "library_rows", "suffix_of"]


def library_rows(file: str, begin: Begin, features: Features) -> Iterator[tuple[Begin, Row]]:
    """The rows from one on, each with where it begins; what lies before is read, too."""
    rows = _stream(file).select_columns(list(features)).skip(begin.within)
    for number, row in enumerate(rows.iter(1), begin.within):  # a worker's plain iterator leaves shards to others
        yield Begin(0, 0, number), {name: values[0] for name, values in row.items()}


def library_features(file: str) -> Features:
    """The columns of a file, as the library sees them by the first rows."""
    rows = _stream(file)
    return (rows if rows.features else rows._resolve_features()).features


def suffix_of(file: str) -> str:
    """The suffix of a path or an address, lower-case."""
    return Path(urlsplit(file).path if is_remote(file) else file).suffix.lower()


def _stream(file: str) -> IterableDataset:
    suffix = suffix_of(file)
    options: dict[str, Any] = {**options_of(suffix)}
    if is_remote(file) and is_served(file):
        import aiohttp  # a quarter of a second, for those who read from the web

        options["storage_options"] = {
            "client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=60, sock_read=60)}
        }
    name = file if is_remote(file) else glob.escape(file)
    with quiet():
        rows = datasets.load_dataset(READERS[suffix], data_files=[name], split="train", streaming=True, **options)
    assert isinstance(rows, IterableDataset)
    return rows
