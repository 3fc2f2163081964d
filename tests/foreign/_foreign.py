"""What the tests need to know of a module in another project's style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Foreign:
    """A module, made from a seed, with its data."""

    make: Callable[[int], Any]
    train: Callable[[int], Any] | None = None  # loaders; None for modules that have their own
    val: Callable[[int], Any] | None = None
    datamodule: Callable[[int], Any] | None = None
    tied: str = "encoder.*"  # a pattern for parameters that two such modules have
    load: dict[str, Any] = field(default_factory=dict)  # for `load_from_checkpoint`


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """Return what `make` does, from random numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp(width: int = 6, n_in: int = 4, n_out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, n_out))


def table(seed: int, samples: int = 16, batch_size: int = 4, **options: Any) -> DataLoader:
    """Return rows of four numbers with a class of three."""
    rows = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(rows, rows[:, :3].argmax(1)), batch_size, **options)
