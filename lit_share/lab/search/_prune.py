"""Stop runs early that are not promising."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from lit_share.lab.search._note import NoteCourse
from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.search._trial import Trial


class Prune(NoteCourse):
    """Stops a run if Optuna's pruner says so after a validation, and notes its course.

    What is reported to the pruner is the best objective so far, as the best checkpoint counts. A
    step is a validation, usually an epoch.

    Args:
        folder: The run's folder.
        objective: Name of the validation metric.
        mode: Whether a large or a small objective is better.
        study: The name of the study.
        trials: The trials of the same study before this one.
        pruner: An `optuna.pruners.BasePruner`; `None` only notes the course.
    """

    def __init__(
        self,
        folder: Path,
        objective: str,
        mode: str,
        study: str,
        trials: Sequence[Trial],
        pruner: Any,
    ) -> None:
        super().__init__(folder, objective, mode)
        self.study, self.trials, self.pruner = study, list(trials), pruner
        self._trial: Any = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the pruner of the other trials, and of this one if it is resumed."""
        super().on_train_start(trainer, pl_module)
        if self.pruner is None:
            return
        study = load_optuna().create_study(
            study_name=self.study, direction=f"{self.mode}imize", pruner=self.pruner
        )
        for other in self.trials:
            # Some pruners keep state of what they were asked, so each question is asked again.
            trial = study.ask()
            course, (state, value) = other.result.course, other.end()
            if value is not None and course:
                # A run that early stopping has ended keeps its best.
                course = [*course, *course[-1:] * ((trainer.max_epochs or 0) - len(course))]
            _replay(trial, course)
            study.tell(trial, value, state)
        self._trial = study.ask()
        _replay(self._trial, self.course.best)

    @override
    def stops(self, trainer: Trainer) -> bool:
        """Report the objective to the pruner, and return whether it is not promising."""
        if self._trial is None:
            return False
        best = self.course.best
        self._trial.report(best[-1], len(best) - 1)
        return bool(self._trial.should_prune())


def _replay(trial: Any, course: Sequence[float]) -> None:
    for step, value in enumerate(course):
        trial.report(value, step)
        trial.should_prune()
