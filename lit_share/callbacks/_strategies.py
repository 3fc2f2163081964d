"""Strategies that the callbacks cannot serve."""

from __future__ import annotations

from lightning.pytorch import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy


def refuse_strategy(callback: Callback, strategy: Strategy) -> None:
    """Raise if the strategy flattens parameters, so that they have no shape.

    Raises:
        ValueError: If the strategy is FSDP1 or DeepSpeed.
    """
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"{type(callback).__name__} cannot serve {type(strategy).__name__}, which flattens "
            "parameters and cuts them into pieces that do not fit each other: use "
            "ModelParallelStrategy, with fully_shard in configure_model"
        )
