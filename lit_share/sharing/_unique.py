"""Arguments of optimizers without repeated parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def unique_parameters(params: Iterable[Any]) -> list[Any]:
    """Remove repeated parameters from an optimizer's ``params``, keeping the first occurrence.

    An optimizer raises if two groups have a parameter in common, and steps a parameter twice if its
    group repeats it. If models share parameters but have separate groups, write
    ``Adam(unique_parameters([{"params": a.parameters()}, ...]))``: a shared parameter is trained
    with the options of the first group. Groups may become empty.

    Args:
        params: Parameters, ``(name, parameter)`` pairs or groups, as for `torch.optim.Optimizer`.

    Example:
        >>> from torch import nn
        >>> from lit_share.sharing import share
        >>> from lit_share.ties import Ties
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.weight", "b.weight"))
        >>> groups = [{"params": pair[name].parameters()} for name in ("a", "b")]
        >>> [len(group["params"]) for group in unique_parameters(groups)]
        [2, 1]
    """
    seen: set[Tensor] = set()

    def is_first(entry: Any) -> bool:
        parameter = entry[1] if isinstance(entry, tuple) else entry
        if parameter in seen:
            return False
        seen.add(parameter)
        return True

    unique: list[Any] = []
    for entry in params:
        if isinstance(entry, Mapping):
            own = entry["params"]
            # Optimizers also accept a single tensor as a group.
            if isinstance(own, Tensor):
                own = [own]
            unique.append({**entry, "params": [p for p in own if is_first(p)]})
        elif is_first(entry):
            unique.append(entry)
    return unique
