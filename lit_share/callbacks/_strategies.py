"""Refuse Lightning strategies that flatten parameters, and run code around those of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_share.lightnings import Callback, is_a

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy


def refuse_strategy(
    callback: Callback,
    strategy: Strategy,
    instead: str = "use ModelParallelStrategy, with fully_shard in configure_model",
) -> None:
    """Raise `ValueError` if the strategy is FSDP1 or DeepSpeed, and say what to do ``instead``."""
    # Both concatenate parameters and split the result evenly over ranks: a shard has no rows or
    # units, so neither groups nor members can be found in it.
    if is_a(strategy, "FSDPStrategy", "DeepSpeedStrategy"):
        raise ValueError(
            f"{type(callback).__name__} cannot serve {type(strategy).__name__}, which flattens "
            "parameters and cuts them into pieces that do not fit each other: "
            f"{instead}"
        )


def wrap_methods(strategy: Strategy, names: Iterable[str], around: Callable[..., Any]) -> None:
    """Let ``around(name, method, ...)`` run in place of methods that have no callback hook."""
    for name in names:
        setattr(strategy, name, partial(around, name, getattr(strategy, name)))


def unwrap_methods(strategy: Strategy, names: Iterable[str]) -> None:
    """Undo `wrap_methods`."""
    # Deleting the instance's attribute restores the method of the strategy's class.
    for name in names:
        vars(strategy).pop(name, None)
