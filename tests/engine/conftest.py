"""A tiny network, batches from tensors and a do-nothing method: all the engine needs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from karst_bench.engine.recipe import Recipe
from karst_bench.methods.base import Method


class TensorBatches:
    """Batches over tensors, shuffled by one randperm of the generator."""

    def __init__(self, x: Tensor, y: Tensor, batch: int = 4) -> None:
        self.x, self.y, self.batch = x, y, batch

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch)

    def epoch(self, generator: torch.Generator | None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.y)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for i in range(skip * self.batch, n, self.batch):
            yield self.x[order[i : i + self.batch]], self.y[order[i : i + self.batch]]


class Plain(Method):
    """A method whose hooks do nothing."""

    def __init__(self) -> None:
        super().__init__(name="plain")

    def param_groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        return []


class Net(nn.Module):
    """Frozen backbone with dropout, trainable adapter with dropout, trainable head: (b, 6) -> (b, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.ReLU()).requires_grad_(False)
        self.adapter = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x.flatten(1))
        return self.head(h + self.adapter(h))


@pytest.fixture
def net() -> Callable[[], Net]:
    def make() -> Net:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Net()

    return make


@pytest.fixture
def batches() -> TensorBatches:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(18, 6, generator=generator)
    return TensorBatches(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        values: dict[str, Any] = {
            "name": "test", "optimiser": "adamw", "lr": 1e-2, "wd": 1e-2, "epochs": 3, "batch": 4, "warmup": 0.1,
            "warmup_lr": 1e-6, "min_lr": 1e-5, "cooldown": 0.0, "drop_path": 0.0, "per_step": True, "momentum": 0.9,
            "label_smoothing": 0.0, "clip_grad": None, "augment": "none", "lag": 1, "cosine_after_warmup": False,
            "warmup_reaches_lr": False, "decay_1d": "none", "drop_last": False,
        }  # fmt: skip
        return Recipe(**(values | changes))

    return make


@pytest.fixture
def plain() -> Plain:
    return Plain()


@pytest.fixture
def conf() -> Path:
    return Path(__file__).parents[2] / "conf"
