"""Two gloo ranks with half the batch each give the loss and every gradient of one rank with all of it."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from clipkit.distributed import all_logsumexp, gather, rank, world_size
from clipkit.heads import ContrastiveHead
from clipkit.objectives import InfoNCE, Objective, Sigmoid
from clipkit.types import Features, ImageTextBatch

B, D, RANKS = 8, 6, 2
CONCEPTS = {"row": list(range(B)), "shared": [1, 2, 1, 3, 2, 1, 4, 5]}
OBJECTIVES: dict[str, type[Objective]] = {"info_nce": InfoNCE, "sigmoid": Sigmoid}


class Model(nn.Module):
    """Two linear towers under the real head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.text = nn.Linear(D, D), nn.Linear(D, D)
        self.head = partial(ContrastiveHead, embed_dim=4, init_logit_scale=1.5, init_logit_bias=-2.0)(D, D)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Any:
        """(B, D) and (B, D) to embeddings."""
        return self.head(Features(self.vision(image)), Features(self.text(text)))


def whole_batch(concepts: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, text = (torch.randn(B, D, generator=generator, dtype=torch.float64) for _ in range(2))
    return image, text, torch.tensor(CONCEPTS[concepts])


def loss_and_gradients(objective: str, concepts: str, rows: slice) -> dict[str, torch.Tensor]:
    model = Model().double()
    image, text, ids = whole_batch(concepts)
    empty = torch.zeros(0)
    batch = ImageTextBatch(empty, empty, empty, ids[rows], ids[rows], {})
    if concepts == "row":
        batch = batch._replace(concept=torch.arange(B)[rows])
    loss = OBJECTIVES[objective]()(model(image[rows], text[rows]), batch).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


def on_rank(index: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=RANKS, rank=index)
    found: dict[str, dict[str, torch.Tensor]] = {}
    rows = slice(index * B // RANKS, (index + 1) * B // RANKS)
    for objective in OBJECTIVES:
        for concepts in CONCEPTS:
            mine = loss_and_gradients(objective, concepts, rows)
            for value in mine.values():  # what DDP does to gradients, and logging to the loss
                dist.all_reduce(value)
                value /= RANKS
            found[f"{objective} {concepts}"] = mine
    found["collectives"] = collectives(index)
    torch.save(found, Path(folder) / f"{index}.pt")
    dist.destroy_process_group()


def collectives(index: int) -> dict[str, torch.Tensor]:
    x = torch.full((2,), float(index + 1), dtype=torch.float64, requires_grad=True)
    gathered = gather(x)
    gathered.backward(torch.arange(4, dtype=torch.float64) * (index + 1))
    y = torch.full((2,), float(index), dtype=torch.float64, requires_grad=True)
    total = all_logsumexp(y)
    total.sum().backward()
    assert (rank(), world_size()) == (index, RANKS)
    assert x.grad is not None
    assert y.grad is not None
    return {"gathered": gathered.detach(), "gradient": x.grad, "logsumexp": total.detach(), "softmax": y.grad}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What both ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(on_rank, (port, str(folder)), nprocs=RANKS, start_method="fork")
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(RANKS)]


@pytest.mark.parametrize("concepts", CONCEPTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_ranks_equal_one(two_ranks: Any, objective: str, concepts: str) -> None:
    reference = loss_and_gradients(objective, concepts, slice(0, B))
    assert {"head.logit_scale", "vision.weight", "text.bias"} <= reference.keys()
    assert ("head.logit_bias" in reference) == (objective == "sigmoid")
    for found in two_ranks:
        mine = found[f"{objective} {concepts}"]
        assert mine.keys() == reference.keys()
        for name, value in reference.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-10, atol=1e-10, msg=f"{name} differs")


def test_collectives(two_ranks: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    for index, found in enumerate(two_ranks):
        parts = found["collectives"]
        assert parts["gathered"].tolist() == [1, 1, 2, 2]
        assert parts["gradient"].tolist() == [[0.0, 3.0], [6.0, 9.0]][index]  # summed over ranks, sent home
        whole = torch.tensor([0.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(parts["logsumexp"], whole.logsumexp(0).expand(2))
        # both ranks read the sum, so each part's gradient comes twice
        torch.testing.assert_close(parts["softmax"], 2 * whole.softmax(0)[index].expand(2))


def test_with_no_process_group() -> None:
    x = torch.ones(3)
    assert (rank(), world_size()) == (0, 1)
    assert gather(x) is x
    assert all_logsumexp(x) is x
