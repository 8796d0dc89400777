"""Small classes to name in a configuration; beside base.yaml, and so trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from clipkit.types import ArgumentError

BUILT: list[str] = []


class Net(nn.Module):
    def __init__(
        self, width: int, act: Callable[[Tensor], Tensor] = torch.relu, kind: type[nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        BUILT.append("Net")
        if width < 0:
            raise ArgumentError("width", f"{width} is negative")
        if width == 0:
            raise ValueError("no width:\n  nothing fits into it")
        self.width, self.act, self.kind = width, act, kind

    @classmethod
    def check(cls, width: int, **_: Any) -> None:
        if width == 13:
            raise ArgumentError("width", "13 brings bad luck; did you mean 12 or 14?")
        if width == 17:
            raise ArgumentError("options.depth", "too deep")


class Wide(Net):
    def __init__(self, factor: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor


class Odd(nn.Module):
    def __init__(self, word: str) -> None:
        super().__init__()

    @classmethod
    def check(cls, word: str) -> None:
        raise RuntimeError(f"nothing answers to\n{word}")


class Even(nn.Module):
    @classmethod
    def check(cls, number: int) -> bool:
        return number % 2 == 0


class Other(nn.Module):
    def __init__(self, depth: int = 1, width: int = 1) -> None:
        super().__init__()
        self.depth, self.width = depth, width


class Head(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, kind: Literal["plain", "fancy"] = "plain") -> None:
        super().__init__()
        BUILT.append("Head")
        self.sizes, self.kind = (inputs, outputs, size), kind


class Task(pl.LightningModule):
    def __init__(
        self,
        net: nn.Module,
        head: Callable[[int, int], Head],
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        parts: Mapping[str, nn.Module] | None = None,
        layers: Sequence[nn.Module] = (),
        options: Mapping[str, Any] | None = None,
        note: str | None = None,
        untyped=None,
    ) -> None:
        super().__init__()
        BUILT.append("Task")
        self.save_hyperparameters()
        self.net, self.head, self.lr, self.betas = net, head(2, 3), lr, betas
        self.parts, self.layers, self.options, self.note = nn.ModuleDict(parts or {}), layers, options, note
        self.untyped = untyped


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 4, train: str = "here", seed: int = 0) -> None:
        super().__init__()
        BUILT.append("Data")
        if train == "nowhere":
            raise ArgumentError("train", "there is nothing at 'nowhere'")
        self.batch_size, self.train = batch_size, train
