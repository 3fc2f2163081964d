"""States of random number generators, as values that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves


def random_states(device: torch.device, loaders: Any) -> dict[str, Any]:
    """Return the states of all global generators of this process, and of those of loaders.

    Args:
        device: The device of this process; if it is no CPU, all devices of its type are included.
        loaders: A loader, or a nested collection of loaders.

    Returns:
        Tensors, numbers, texts, lists and dicts, which load with ``weights_only=True``.
    """
    return {
        "torch": torch.get_rng_state(),
        "numpy": _plain(np.random.get_state(legacy=False)),
        "python": random.getstate(),
        "devices": _device_states(device),
        "loaders": [generator.get_state() for generator in _generators_of(loaders)],
    }


def set_random_states(states: Mapping[str, Any], device: torch.device, loaders: Any) -> list[str]:
    """Restore what `random_states` returned.

    Returns:
        What could not be restored, in words; empty if everything was.
    """
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    problems = []
    kept, number = states["devices"], len(_device_states(device))
    if len(kept) == number:
        _set_device_states(device, kept)
    else:
        problems.append(f"{len(kept)} devices beside the CPU (now {number})")
    kept, generators = states["loaders"], _generators_of(loaders)
    if len(kept) == len(generators):
        for generator, state in zip(generators, kept, strict=True):
            generator.set_state(state)
    else:
        problems.append(f"{len(kept)} generators of loaders (now {len(generators)})")
    return problems


def _device_states(device: torch.device) -> list[torch.Tensor]:
    if device.type == "cpu":
        return []
    module: Any = torch.get_device_module(device)
    # A model may use more devices than that of its process.
    if hasattr(module, "get_rng_state_all"):
        return [*module.get_rng_state_all()]
    return [module.get_rng_state()]


def _set_device_states(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    if not states:
        return
    module: Any = torch.get_device_module(device)
    if hasattr(module, "set_rng_state_all"):
        module.set_rng_state_all(states)
    else:
        module.set_rng_state(states[0])


def _generators_of(loaders: Any) -> list[torch.Generator]:
    """Return the generators that loaders and their samplers were given, each once."""
    found: dict[int, torch.Generator] = {}
    for loader in tree_leaves(loaders):
        for owner in _parts_of(loader):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return [*found.values()]


def _parts_of(loader: Any) -> Iterator[Any]:
    yield loader
    batch_sampler = getattr(loader, "batch_sampler", None)
    yield from (getattr(loader, "sampler", None), batch_sampler)
    yield getattr(batch_sampler, "sampler", None)


def _plain(state: Any) -> Any:
    # `weights_only=True` reads no arrays of NumPy, and torch has not all of its dtypes.
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, (np.ndarray, np.generic)):
        return state.tolist()
    return state
