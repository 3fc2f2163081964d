"""Undo what a step of a LightningModule changes besides its outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import Tensor, nn

# What every module has. Strategies may replace parameters in a forward pass, which must stay so.
_OWN = vars(nn.Module()).keys() - {"_buffers"}


@contextmanager
def undone(module: nn.Module) -> Iterator[None]:
    """Restore modes, buffers, other attributes and global random states after this context.

    So metrics, statistics, and lists that a module collects outputs in are as before. Parameters
    and their gradients are left as they are, and so are objects that are no modules, apart from
    tensors, lists, dicts and sets. Tensors are restored in place.

    Args:
        module: The module, which is in evaluation mode in this context.
    """
    modes = [(own, own.training) for own in module.modules()]
    saved = [(vars(own), _copy(vars(own), _OWN)) for own, _ in modes]
    states = _collect_rng_states()
    try:
        module.eval()
        yield
    finally:
        _set_rng_states(states)
        for attributes, before in saved:
            for key in attributes.keys() - before.keys() - _OWN:
                del attributes[key]
            for key, (value, content) in before.items():
                _restore(value, content)
                attributes[key] = value
        for own, mode in modes:
            own.training = mode


def _copy(items: dict[str, Any], without: Any = frozenset()) -> dict[str, tuple[Any, Any]]:
    """Return each value with a copy of its content."""
    return {key: (value, _content(value)) for key, value in items.items() if key not in without}


def _content(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        # Those of inference mode cannot be written to.
        return None if value.is_inference() else value.detach().clone()
    if type(value) is dict:
        return _copy(value)
    if isinstance(value, (list, set, deque)):
        return list(value)
    return None


def _restore(value: Any, content: Any) -> None:
    if content is None:
        return
    if isinstance(value, Tensor):
        # Through `data`, so that autograd takes unchanged numbers for unchanged. Versions would not
        # tell which did change: batch normalisation writes its statistics without a new one.
        value.data.copy_(content)
    elif type(value) is dict:
        for own, of_own in content.values():
            _restore(own, of_own)
        value.clear()
        value.update({key: own for key, (own, _) in content.items()})
    elif isinstance(value, (list, set, deque)):
        value.clear()
        value.extend(content) if not isinstance(value, set) else value.update(content)
