"""Modules for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def module_of(shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A module with parameters of these dotted names and shapes, filled with random numbers."""
    root = nn.Module()
    for seed, (name, shape) in enumerate(shapes.items()):
        *path, attribute = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        generator = torch.Generator().manual_seed(seed)
        owner.register_parameter(
            attribute, nn.Parameter(torch.randn(tuple(shape), generator=generator))
        )
    return root


def pair_of(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


def mlp(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Parameters: 0.weight (3×4), 0.bias, 2.weight (2×3), 2.bias."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters under all of their names."""
    return dict(module.named_parameters(remove_duplicate=False))
