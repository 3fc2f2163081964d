"""Call modules for what they compute alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a forward: one tensor, a tuple, or a mapping.

    Raises:
        TypeError: If they are none of these.
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    # A DataLoader makes lists of tuples.
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    raise TypeError(
        f"inputs must be a tensor, a tuple of arguments or a dict of keyword arguments, "
        f"got {type(inputs).__name__}"
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients, and restore modes and buffers."""
    with restored(module), torch.no_grad():
        module.eval()
        yield


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Restore the mode and the buffers of each layer of a module when the context closes."""
    modes = {layer: layer.training for layer in module.modules()}
    # A forward may count its calls, or average what it sees, in evaluation too.
    buffers = {layer: dict(layer._buffers) for layer in modes}
    values = {
        buffer: buffer.detach().clone()
        for buffer in chain.from_iterable(own.values() for own in buffers.values())
        if buffer is not None and not is_lazy(buffer) and not buffer.is_meta
    }
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
            layer._buffers.update(buffers[layer])
        with torch.no_grad():
            for buffer, value in values.items():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
