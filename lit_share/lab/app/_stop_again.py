"""Stop a resumed run that early stopping had ended."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override


class StopAgain(Callback):
    """Stops a run whose checkpoint was saved when `EarlyStopping` had decided to end it.

    Lightning 2.6 would train another epoch, and go on for good if that happened to be better.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        early = [c for c in callbacks if isinstance(c, EarlyStopping)]
        # The epoch is 0 if a run was not stopped, but also if that was after its first epoch.
        has_stopped = any(c.stopped_epoch or c.wait_count > max(c.patience - 1, 0) for c in early)
        trainer.should_stop = trainer.should_stop or has_stopped
