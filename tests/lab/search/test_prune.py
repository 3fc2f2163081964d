"""Runs that are not promising stop, as Optuna's pruners say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_share.lab.results import Result
from lit_share.lab.search import Course, Prune, Trial

optuna = pytest.importorskip("optuna")

EPOCHS = 6


class Trainer(SimpleNamespace):
    """The attributes of Lightning's that a callback reads, after each validation."""

    def __init__(self, epoch: int = 0) -> None:
        super().__init__(
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            sanity_checking=False,
            callback_metrics={},
            current_epoch=epoch,
            max_epochs=EPOCHS,
            should_stop=False,
            is_global_zero=True,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
        )


def trial(number: int, course: list[float], status: str = "finished") -> Trial:
    head: Any = (Path(), 1, status, "l2", 0, "val", "max")
    best = {"val": course[-1]}
    return Trial(number, (), Result(*head, validation=best, course=course))


def run(prune: Prune, values: list[float], trainer: Any = None) -> Any:
    """Validate until the run stops, and return the trainer."""
    trainer = trainer or Trainer()
    prune.on_train_start(trainer, None)  # type: ignore[arg-type]
    for value in values:
        trainer.callback_metrics["val"] = torch.tensor(value, dtype=torch.float64)
        prune.on_validation_end(trainer, None)  # type: ignore[arg-type]
        trainer.current_epoch += 1
        if trainer.should_stop:
            break
    return trainer


def make(folder: Path, trials: list[Trial], mode: str = "max", pruner: Any = None) -> Prune:
    pruner = pruner or optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2)
    return Prune(folder, "val", mode, "study", trials, pruner)


GOOD = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def test_an_unpromising_run_stops_after_the_warm_up(tmp_path: Path) -> None:
    trainer = run(make(tmp_path, [trial(0, GOOD)]), [0.1, 0.2, 0.15, 0.3, 0.4, 0.5])
    assert trainer.current_epoch == 3
    assert Course.read(tmp_path) == Course([0.1, 0.2, 0.2], is_pruned=True)


@pytest.mark.parametrize(
    ("trials", "values"),
    [
        ([], [0.1] * EPOCHS),  # nothing to compare with
        ([trial(0, GOOD)], [0.5, 0.9, 0.1, 0.1, 0.1, 0.1]),  # the best so far counts
        ([trial(0, GOOD, "pruned")], [0.1] * EPOCHS),
        ([trial(0, [0.1] * 5 + [0.9])], [0.2] * EPOCHS),  # worse after the last epoch only
    ],
)
def test_others_run_to_their_end(tmp_path: Path, trials: list[Trial], values: list[float]) -> None:
    trainer = run(make(tmp_path, trials), values)
    assert (trainer.current_epoch, trainer.should_stop) == (EPOCHS, False)
    assert not Course.read(tmp_path).is_pruned


def test_small_objectives(tmp_path: Path) -> None:
    losses = [1 - value for value in GOOD]
    assert run(make(tmp_path, [trial(0, losses)], "min"), losses).current_epoch == EPOCHS
    assert run(make(tmp_path, [trial(0, losses)], "min"), [0.9] * EPOCHS).current_epoch == 3
    assert Course.read(tmp_path).best == [0.9] * 3


def test_a_run_that_early_stopping_has_ended_keeps_its_best(tmp_path: Path) -> None:
    short = [0.5, 0.7]
    assert run(make(tmp_path, [trial(0, short)]), [0.1] * EPOCHS).current_epoch == 3
    assert run(make(tmp_path, [trial(0, short)]), [0.8] * EPOCHS).current_epoch == EPOCHS


def test_a_run_that_stops_anyway_is_not_pruned(tmp_path: Path) -> None:
    trainer = Trainer()
    prune = make(tmp_path, [trial(0, GOOD)])
    run(prune, [0.1, 0.1], trainer)
    trainer.should_stop = True
    prune.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert Course.read(tmp_path) == Course([0.1, 0.1, 0.1], is_pruned=False)


def test_a_run_that_was_stopped_stops_again(tmp_path: Path) -> None:
    """Its process was killed before it wrote a result."""
    stopped, resumed = make(tmp_path, [trial(0, GOOD)]), make(tmp_path, [trial(0, GOOD)])
    assert run(stopped, [0.1] * EPOCHS).should_stop
    resumed.load_state_dict(stopped.state_dict())
    assert run(resumed, []).should_stop
    resumed.load_state_dict({**stopped.state_dict(), "is_pruned": False})
    assert not run(resumed, []).should_stop


def test_a_resumed_run_continues_its_course(tmp_path: Path) -> None:
    values = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    whole = make(tmp_path, [trial(0, GOOD)])
    assert run(whole, values).current_epoch == 6
    first = make(tmp_path, [trial(0, GOOD)])
    run(first, values[:2])
    second = make(tmp_path, [trial(0, GOOD)])
    second.load_state_dict(first.state_dict())
    assert run(second, values[2:], Trainer(2)).current_epoch == 6
    assert second.course == whole.course


@pytest.mark.parametrize(
    "change",
    [
        {"sanity_checking": True},
        {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)},
        {"callback_metrics": {}},
    ],
)
def test_only_validations_of_training_count(tmp_path: Path, change: dict[str, Any]) -> None:
    prune, trainer = make(tmp_path, []), Trainer()
    run(prune, [0.5], trainer)
    trainer.callback_metrics["val"] = torch.tensor(0.9)
    vars(trainer).update(change)
    prune.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert prune.course.best == [0.5]


PRUNERS = [
    lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    lambda: optuna.pruners.HyperbandPruner(1, EPOCHS, 2),
    lambda: optuna.pruners.MedianPruner(1, 0),
    lambda: optuna.pruners.PercentilePruner(60, n_startup_trials=2),
]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_decisions_are_those_of_a_study_that_lasts(tmp_path: Path, pruner: Any) -> None:
    """Although each cell builds the study anew from results."""
    generator = torch.Generator().manual_seed(0)
    study = optuna.create_study(study_name="study", direction="maximize", pruner=pruner())
    trials: list[Trial] = []
    ends = set()
    for number in range(12):
        values = torch.rand(EPOCHS, generator=generator, dtype=torch.float64).tolist()
        live, best, stopped = study.ask(), [], False
        for value in values:
            best.append(max([value, *best[-1:]]))
            if len(best) < EPOCHS:
                live.report(best[-1], len(best) - 1)
                if live.should_prune():
                    stopped = True
                    break
        state = optuna.trial.TrialState.PRUNED if stopped else optuna.trial.TrialState.COMPLETE
        study.tell(live, None if stopped else best[-1], state)
        run(make(tmp_path, trials, pruner=pruner()), values)
        assert Course.read(tmp_path) == Course(best, stopped)
        trials.append(trial(number, best, "pruned" if stopped else "finished"))
        ends.add(stopped)
    assert ends == {True, False}
