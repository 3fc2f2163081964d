"""Undo what a step of a LightningModule changes besides its outputs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_share.callbacks._random_state import same_random_state

# What every module has. Strategies may replace parameters in a forward pass, which must stay so.
_OWN = vars(nn.Module()).keys() - {"_buffers"}


@contextmanager
def undone(module: nn.Module) -> Iterator[None]:
    """Restore modes, buffers, other attributes and random states after this context.

    So metrics, statistics, and containers that a module collects outputs in are as before, however
    they are nested. Parameters and their gradients are left as they are, and so are objects that
    are no modules, apart from tensors, arrays, lists, dicts, sets and generators of random numbers.
    These are restored in place.

    Args:
        module: The module, which is in evaluation mode in this context.
    """
    before = _Before()
    before.keep(module)
    try:
        with same_random_state():
            module.eval()
            yield
    finally:
        before.restore()


class _Before:
    """The content of objects, and of all objects within."""

    def __init__(self) -> None:
        self._restorers: list[Callable[[], Any]] = []
        # By their `id`, which stays theirs as long as they are held.
        self._known: dict[int, Any] = {}

    def keep(self, value: Any) -> None:
        """Keep the content of a value, if it can change."""
        if isinstance(value, nn.Module):
            for own in value.modules():
                self._keep_module(own)
            return
        if id(value) in self._known:
            return
        restorer, parts = _restorer(value)
        if restorer is None and not parts:
            return
        self._known[id(value)] = value
        if restorer is not None:
            self._restorers.append(restorer)
        for part in parts:
            self.keep(part)

    def restore(self) -> None:
        """Restore all that is kept."""
        for restorer in self._restorers:
            restorer()

    def _keep_module(self, module: nn.Module) -> None:
        if id(module) in self._known:
            return
        self._known[id(module)] = module
        attributes = {key: own for key, own in vars(module).items() if key not in _OWN}
        self._restorers.append(partial(_set_attributes, module, attributes, module.training))
        for own in attributes.values():
            self.keep(own)


def _set_attributes(module: nn.Module, before: dict[str, Any], is_training: bool) -> None:
    attributes = vars(module)
    for key in attributes.keys() - before.keys() - _OWN:
        del attributes[key]
    attributes.update(before)
    module.training = is_training


def _restorer(value: Any) -> tuple[Callable[[], Any] | None, Any]:
    """Return what restores a value, or ``None`` if it cannot change, and the values in it."""
    if isinstance(value, Tensor):
        return (partial(_write, value, value.detach().clone()) if _is_writable(value) else None), ()
    if isinstance(value, np.ndarray):
        return (partial(np.copyto, value, value.copy()) if value.flags.writeable else None), ()
    if isinstance(value, dict):
        return partial(_refill, value, value.update, dict(value)), value.values()
    if isinstance(value, (list, deque)):
        return partial(_refill, value, value.extend, list(value)), list(value)
    if isinstance(value, set):
        return partial(_refill, value, value.update, set(value)), ()
    if isinstance(value, tuple):
        return None, value
    return _generator_restorer(value), ()


def _generator_restorer(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _is_writable(tensor: Tensor) -> bool:
    """Whether a tensor that is no parameter can be changed in place."""
    # Tensors of inference mode cannot, nor can those that `expand` returns.
    if isinstance(tensor, nn.Parameter) or tensor.is_inference():
        return False
    if tensor.layout != torch.strided:
        return True
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return all(stride or size == 1 for stride, size in pairs)


def _write(tensor: Tensor, content: Tensor) -> None:
    # Through `data`, so that autograd takes unchanged numbers for unchanged. Versions would not
    # tell which did change: batch normalisation writes its statistics without a new one.
    tensor.data.copy_(content)


def _refill(value: Any, fill: Callable[[Any], None], content: Any) -> None:
    value.clear()
    fill(content)
