"""A small set in the hub's layout, data modules of it, and servers that shards come from."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.data import CaptionDataModule, connections
from clipkit.data.remote import Retry, open_forwards
from clipkit.data.seekable import open_seekable
from clipkit.tokens import read_tokenizer
from clipkit.types import InputSpec

from .servers import DATA, Handler, Server

ROWS = 41


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_columns(numbers: Iterable[int]) -> dict[str, list[Any]]:
    numbers = list(numbers)
    return {
        "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers],
        "captions": [[f"left {i}", f"ein {i}", f"thing {i}"] for i in numbers],
        "languages": [["en", "de", "en"] for _ in numbers],
        "tags": [["x"] * (i % 3) for i in numbers],
        "kind": [i % 11 for i in numbers],
        "style": ["ab"[i % 2] for i in numbers],
        "size": [i / 4 for i in numbers],
    }


@pytest.fixture(scope="session")
def columns() -> Callable[[Iterable[int]], dict[str, list[Any]]]:
    """The columns of some rows, by number."""
    return make_columns


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 rows to train on, 9 to validate."""
    root: Path = tmp_path_factory.mktemp("set")
    (root / "data").mkdir()
    for split, numbers in {"train": range(ROWS), "validation": range(100, 109)}.items():
        pq.write_table(pa.table(make_columns(numbers)), root / f"data/{split}-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    """What a small model wants."""
    return InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", read_tokenizer("emoji"), 16, "longest")


@pytest.fixture(scope="session")
def make(spec: InputSpec) -> Callable[..., CaptionDataModule]:
    """A data module that knows what the model wants."""

    def made(source: str | Path | list[str] | dict[str, float], **options: Any) -> CaptionDataModule:
        train = str(source) if isinstance(source, Path) else source
        data = CaptionDataModule(train, **{"batch_size": 6, "workers": 0, **options})
        data.inputs = spec
        return data

    return made


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    """A web server whose files behave as the first folder of their path says."""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for S3, and no proxy to this machine."""
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "no_proxy": "127.0.0.1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    connections._client.cache_clear()  # clients know their server from the surroundings


@pytest.fixture
def serve(running: Server, surroundings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """``serve({path: content}, **retry)``: the addresses, asked with short waits."""

    def serving(files: dict[str, bytes], **retry: Any) -> list[str]:
        waits = Retry(**{"attempts": 3, "first_wait": 0.001, "most_wait": 0.002, "timeout": 0.5, **retry})
        for module in ("tar_shards", "lines"):
            monkeypatch.setattr(f"clipkit.data.{module}.open_forwards", partial(open_forwards, retry=waits))
        monkeypatch.setattr("clipkit.data.columnar.open_seekable", partial(open_seekable, retry=waits))
        monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0.001)
        running.gets.clear()
        running.sent.clear()
        running.files = {f"/{path}": content for path, content in files.items()}
        return [f"http://127.0.0.1:{running.server_port}/{path}" for path in files]

    yield serving
    running.files = {}


@pytest.fixture(scope="session")
def emulated() -> Iterator[tuple[str, Any]]:
    """The address of an emulated S3 with some shards in the bucket ``pictures``, and a client of it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", "us-east-1", endpoint_url=address, aws_access_key_id="x", aws_secret_access_key="x")
    client.create_bucket(Bucket="pictures")
    for name in ("train-0", "train-1", "train-2", "extra-0"):
        client.put_object(Bucket="pictures", Key=f"deep/{name}.tar", Body=DATA)
    yield address, client
    server.stop()
