"""Note how the objective goes while a run trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lit_share.lab.search._course import Course
from lit_share.lightnings import Callback


class NoteCourse(Callback):
    """Writes the best objective so far to a file after each validation; subclasses stop the run.

    Args:
        folder: The run's folder.
        objective: Name of the validation metric.
        mode: Whether a large or a small objective is better.
    """

    def __init__(self, folder: Path, objective: str, mode: str) -> None:
        self.folder, self.objective, self.mode = folder, objective, mode
        self.course = Course()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.course.best), "is_pruned": self.course.is_pruned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course = Course(list(state_dict["best"]), state_dict["is_pruned"])

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a run again whose process was killed after it had been stopped."""
        trainer.should_stop = trainer.should_stop or self.course.is_pruned

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the objective, and stop the run if a subclass says so."""
        is_fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not is_fitting or self.objective not in trainer.callback_metrics:
            return
        # The best so far, as the best checkpoint counts; a single validation of a few hundred
        # examples says less.
        best = self.course.best
        value = trainer.callback_metrics[self.objective].item()
        if best and not self._is_better(value, best[-1]):
            value = best[-1]
        best.append(value)
        stops = False
        # In its last epoch, stopping a run saves nothing.
        if not trainer.should_stop and trainer.current_epoch + 1 != trainer.max_epochs:
            stops = self.stops(trainer)
        self.course.is_pruned = trainer.strategy.reduce_boolean_decision(stops, all=False)
        trainer.should_stop = trainer.should_stop or self.course.is_pruned
        # All ranks have the same metrics, but one writes.
        if trainer.is_global_zero:
            self.course.write(self.folder)

    def _is_better(self, value: float, than: float) -> bool:
        # A value that is not a number is the worst, as `ModelCheckpoint` has it.
        if math.isnan(than):
            return True
        if self.mode == "max":
            return value > than
        return value < than

    def stops(self, trainer: Trainer) -> bool:  # noqa: ARG002
        """Return whether to stop the run after the last value of the course."""
        return False
