"""State of callbacks within the state of an optimizer.

A `transformers.TrainerCallback` can keep numbers and texts in a checkpoint, but no tensors, and
does not learn from which folder training resumes. The optimizer's state has tensors, and is loaded
before training begins. Entries of parameter groups that an optimizer does not know are saved and
loaded as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

_ENTRY = "lit_share"


def keep_in_state(
    optimizer: Optimizer, key: str, state: Callable[[], dict[str, Any]]
) -> RemovableHandle:
    """Add what ``state`` returns to the optimizer's state dicts, until the handle is removed."""

    def add(_: Optimizer, state_dict: dict[str, Any]) -> None:
        # The groups of a state dict are copies, so the optimizer's own have no such entry.
        state_dict["param_groups"][0].setdefault(_ENTRY, {})[key] = state()

    return optimizer.register_state_dict_post_hook(add)


def take_from_state(optimizer: Optimizer, key: str) -> dict[str, Any] | None:
    """Remove the state of ``key`` from a loaded optimizer and return it; ``None`` without."""
    group = optimizer.param_groups[0]
    states: dict[str, dict[str, Any]] = group.get(_ENTRY, {})
    state = states.pop(key, None)
    if not states:
        group.pop(_ENTRY, None)
    return state
