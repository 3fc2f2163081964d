"""Call modules for what they compute alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy


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
