"""What an optimizer is given, with every parameter once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def unique_parameters(params: Iterable[Any]) -> list[Any]:
    """What an optimizer's constructor takes, with every parameter only where it comes first.

    An optimizer refuses one parameter in two of its groups, and steps it twice if it is twice in one. So where models
    share parameters and have a group each, write ``Adam(unique_parameters([{"params": a.parameters()}, ...]))``: what
    they share is trained with the options of the first group that has it, and decayed once.

    Args:
        params: Parameters, ``(name, parameter)`` pairs, or parameter groups, as for `torch.optim.Optimizer`.

    Returns:
        The same without repetitions; a group all of whose parameters come earlier is left empty.

    Example:
        >>> from torch import nn
        >>> from lit_share.sharing import share
        >>> from lit_share.ties import Ties
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> ties = share(pair, Ties("a.weight", "b.weight"))
        >>> groups = [{"params": pair["a"].parameters(), "lr": 0.1}, {"params": pair["b"].parameters(), "lr": 0.2}]
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

    def unique(entry: Any) -> Any:
        own = entry["params"]
        return {
            **entry,
            "params": [p for p in ([own] if isinstance(own, Tensor) else own) if is_first(p)],
        }

    return [
        unique(e) if isinstance(e, Mapping) else e
        for e in params
        if isinstance(e, Mapping) or is_first(e)
    ]
