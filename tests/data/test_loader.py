"""A program with workers ends, whatever is left of them."""

from __future__ import annotations

import multiprocessing

import torch
from torch.utils.data import DataLoader

from clipkit.data.loader import Loader


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, number):
        return number

    def __len__(self):
        return 8


left: list[DataLoader] = []


def leave_workers():
    torch.set_num_threads(1)
    loader = Loader(Numbers(), workers=2, persistent=True, batch_size=2)
    assert sum(map(len, loader)) == 8
    left.append(loader)  # alive when the process ends, as with a traceback that holds it


def test_a_process_ends_with_workers_left():
    process = multiprocessing.get_context("fork").Process(target=leave_workers)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0
