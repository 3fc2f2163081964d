"""Stop a trial of a race after its epochs; the winner resumes from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from typing_extensions import override

from lit_share.lab.search import NoteCourse


class Pause(NoteCourse):
    """Stops a run at its first validation after some epochs, and notes the objective's course.

    Args:
        folder: The run's folder.
        objective: Name of the validation metric.
        mode: Whether a large or a small objective is better.
        epochs: The number of epochs; `None` for the winner, which trains to the end.
    """

    def __init__(self, folder: Path, objective: str, mode: str, epochs: int | None) -> None:
        super().__init__(folder, objective, mode)
        # Not `trainer.max_epochs`, by which schedules of learning rates and penalties may go: the
        # winner must have trained as a run that was never paused.
        self.epochs = epochs

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # The winner resumes from the checkpoint of a trial that has ended.
        self.course.is_pruned = state_dict["is_pruned"] and self.epochs is not None

    @override
    def stops(self, trainer: Trainer) -> bool:
        """Return whether the trial has had its epochs."""
        # Not equal, because some configs validate only every few epochs.
        return self.epochs is not None and trainer.current_epoch + 1 >= self.epochs
