"""Stop a resumed run that early stopping had ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from lit_share.lightnings import Callback, is_a

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class StopAgain(Callback):
    """Stops a run whose checkpoint was saved when `EarlyStopping` had decided to end it.

    Lightning 2.6 would train another epoch, and go on for good if that happened to be better.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        early: list[Any] = [c for c in callbacks if is_a(c, "EarlyStopping")]
        # The epoch is 0 if a run was not stopped, but also if that was after its first epoch.
        has_stopped = any(c.stopped_epoch or c.wait_count > max(c.patience - 1, 0) for c in early)
        trainer.should_stop = trainer.should_stop or has_stopped
