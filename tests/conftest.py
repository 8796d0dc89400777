"""What every test stands on: no hub, two threads, a folder of its own, and the embedded rows read once a session."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from datasets import Dataset

ROOT = Path(__file__).resolve().parents[1]

_folders = itertools.count()
_cache = tempfile.TemporaryDirectory(prefix="clipkit-tests-")

# Before anything imports a library that reads them.
os.environ.update(
    HF_HOME=_cache.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
# Two where a test has the machine to itself; workers of xdist with two each wait for one another most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in an empty folder, so that none writes into the checkout.

    It is never one that another test had: pytest gives a passed test's to the next of that name, and MLflow keeps what
    it opened by its address, be the file another.
    """
    folder = tmp_path / f"here{next(_folders)}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _autograd_before_any_compiler() -> None:
    """Autograd starts a thread for each device at its first use, and no process that is forked from such can train.

    Without a GPU it sees no device, but eight of them once anything was compiled.
    """
    import torch

    if not torch.cuda.is_available():
        torch.zeros((), requires_grad=True).square().backward()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing at their end, which takes seconds and is tested where pictures are."""
    monkeypatch.setattr("clipkit.tracking.LogPictures._draw", lambda *_: None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def emoji() -> Dataset:
    """The training rows of the embedded set; read, never changed."""
    from clipkit.data import load_rows

    return load_rows("emoji")


@pytest.fixture(scope="session")
def emoji_cells() -> Dataset:
    """The rows of unseen (concept, style) cells."""
    from clipkit.data import load_rows

    return load_rows("emoji/cells")


def _as_rank(rank: int, world: int, folder: Path, work: Callable[..., Any]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)  # the parent's threads did not come along
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.save(work(rank, world), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``on_ranks(work, world=2)``: what ``work(rank, world)`` returns on each of some gloo ranks.

    Forked, since the imports would cost more than the tests.
    """
    import torch

    context = multiprocessing.get_context("fork")

    def run(work: Callable[..., Any], world: int = 2) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        ranks = [context.Process(target=_as_rank, args=(rank, world, folder, work)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
            process.kill()  # one that waits for another that is gone
        assert [process.exitcode for process in ranks] == [0] * world
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]

    return run


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """``make_model(vision="test_vit", **head)``: a dual encoder of 0.5 M parameters, the same at each call."""
    from functools import partial

    import torch

    from clipkit.heads import ContrastiveHead
    from clipkit.models import DualEncoder
    from clipkit.towers import ClipTextTower, TimmTower

    def make(vision: str = "test_vit", image_size: int = 32, **head: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            text = ClipTextTower(width=32, layers=3, heads=2, context_length=12)
            return DualEncoder(
                TimmTower(vision, image_size=image_size), text, partial(ContrastiveHead, embed_dim=16, **head)
            )

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Any]:
    """``make_batch(rows, concepts=None, seed=0)``: what a loader would give for ``make_model``, made up."""
    import torch

    from clipkit.types import ImageTextBatch

    def make(rows: int, concepts: list[int] | None = None, seed: int = 0, size: int = 32) -> ImageTextBatch:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=generator)
        lengths = torch.randint(3, 9, (rows, 1), generator=generator)
        place = torch.arange(8).expand(rows, 8)
        tokens = torch.randint(3, 8192, (rows, 8), generator=generator)
        tokens = tokens.where(place > 0, 1).where(place < lengths - 1, 2).where(place < lengths, 0)  # <start> ... <end>
        ids = torch.arange(rows)
        return ImageTextBatch(
            image, tokens, place < lengths, ids if concepts is None else torch.tensor(concepts), ids, {}
        )

    return make


@pytest.fixture(scope="session")
def largest_made() -> Callable[[], Any]:
    """``with largest_made() as largest``: then ``largest.elements`` is the size of the largest tensor made inside."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return made

    return Largest
