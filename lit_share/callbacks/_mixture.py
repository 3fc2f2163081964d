"""Warn of both Lightnings in one Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lit_share.lightnings import Callback, package_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def warn_of_mixture(trainer: Trainer) -> None:
    """Warn of callbacks and loggers of the package that the Trainer is not from."""
    own = package_of(trainer)
    given: list[Any] = [*trainer.callbacks, *trainer.loggers]  # type: ignore[attr-defined]
    for each in given:
        other = package_of(each)
        if other not in (own, None) and not isinstance(each, Callback):
            rank_zero_warn(
                f"{type(each).__name__} is of {other}, but the Trainer of {own}, which does not "
                f"know it as what it is: import it from {own}, too"
            )
