"""Stop runs early that are not promising."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_share.lab.search._course import Course
from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.search._trial import Trial


class Prune(Callback):
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
        self.folder, self.objective, self.mode = folder, objective, mode
        self.study, self.trials, self.pruner = study, list(trials), pruner
        self.course = Course()
        self._trial: Any = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.course.best)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.course = Course(list(state_dict["best"]))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the pruner of the other trials, and of this one if it is resumed."""
        if self.pruner is None:
            return
        study = load_optuna().create_study(
            study_name=self.study, direction=f"{self.mode}imize", pruner=self.pruner
        )
        for other in self.trials:
            # Some pruners keep notes when they are asked, so that they have to be asked again.
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
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the objective, and stop the run if it is not promising."""
        is_fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not is_fitting or self.objective not in trainer.callback_metrics:
            return
        best = self.course.best
        value = trainer.callback_metrics[self.objective].item()
        if best and self.mode == "max":
            value = max(value, best[-1])
        elif best:
            value = min(value, best[-1])
        best.append(value)
        pruned = False
        # A run that ends anyway has cost what it costs.
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if self._trial is not None and not ends:
            self._trial.report(value, len(best) - 1)
            pruned = bool(self._trial.should_prune())
        self.course.is_pruned = trainer.strategy.reduce_boolean_decision(pruned, all=False)
        trainer.should_stop = trainer.should_stop or self.course.is_pruned
        # All ranks have the same metrics, but one writes.
        if trainer.is_global_zero:
            self.course.write(self.folder)


def _replay(trial: Any, course: Sequence[float]) -> None:
    for step, value in enumerate(course):
        trial.report(value, step)
        trial.should_prune()
