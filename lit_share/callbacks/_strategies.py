"""Refuse Lightning strategies that flatten parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
