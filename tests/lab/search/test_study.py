"""Trials of a study: the same whenever they are asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lit_share.lab.results import Result
from lit_share.lab.search import Choices, Range, Study, Trial

optuna = pytest.importorskip("optuna")

STRENGTH = Range("strength", 0.001, 1.0, log=True)
LISTS = (Choices("strength", ("1", "2", "3")), Choices("ties", ("all", "head")))


def tpe(seed: int) -> Any:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)


def result(value: float, mode: str = "max", status: str = "finished", course: Any = ()) -> Result:
    head: Any = (Path(), 1, status, "l2", 0, "val", mode)
    return Result(*head, validation={"val": value}, course=[*course])


def strength_of(cell: tuple[str, ...]) -> float:
    return float(cell[-1].partition("=")[2])


def search(study: Study, mode: str = "max", seed: int = 0) -> list[Trial]:
    """Find the strength 0.1."""
    trials: list[Trial] = []
    for number in range(study.trials):
        cell = study.ask(number, trials, tpe, seed)
        error = abs(math.log10(strength_of(cell)) + 1)
        value = error if mode == "min" else -error
        trials.append(Trial(number, cell, result(value, mode)))
    return trials


def test_trials_can_be_repeated_from_any_point() -> None:
    study = Study(("seed=0", "regularizer=l2"), (STRENGTH,), "max", 8)
    trials = search(study)
    assert trials == search(study)
    assert len({trial.overrides for trial in trials}) == 8
    assert all(0.001 <= strength_of(trial.overrides) <= 1 for trial in trials)
    assert study.ask(5, trials[:5], tpe, 0) == trials[5].overrides
    assert trials != search(study, seed=1)
    other = Study(("seed=1", "regularizer=l2"), (STRENGTH,), "max", 8)
    assert [t.overrides[-1] for t in search(other)[1:]] != [t.overrides[-1] for t in trials[1:]]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_results_of_earlier_trials_are_read(mode: str) -> None:
    trials = search(Study((), (STRENGTH,), mode, 40), mode)
    errors = [abs(math.log10(strength_of(trial.overrides)) + 1) for trial in trials]
    assert strength_of(trials[0].overrides) == 0.03162
    assert sum(errors[20:]) < sum(errors[1:21])


def test_lists_are_tried_entirely_from_the_middle() -> None:
    study = Study(("seed=0",), LISTS, "max", 6)
    asked = [study.ask(number, [], tpe, 0) for number in range(study.trials)]
    assert asked[:2] == [("seed=0", "strength=2", f"ties={ties}") for ties in ("all", "head")]
    assert len(set(asked)) == study.trials == 6
    assert Study((), LISTS, "max", 100).trials == 6


def test_of_longer_lists_some_are_chosen_without_repetition() -> None:
    study = Study((), LISTS, "max", 5)
    trials: list[Trial] = []
    for number in range(study.trials):
        cell = study.ask(number, trials, tpe, 0)
        trials.append(Trial(number, cell, result(0.5)))
    assert len({trial.overrides for trial in trials}) == 5


def test_few_whole_numbers_are_a_list() -> None:
    study = Study((), (Range("depth", 1, 5, whole=True),), "max", 10)
    asked = [study.ask(number, [], tpe, 0) for number in range(study.trials)]
    assert asked == [(f"depth={depth}",) for depth in (3, 2, 4, 1, 5)]
    assert Study((), (Range("width", 1, 500, whole=True),), "max", 10).trials == 10


def test_nothing_to_choose_is_one_trial() -> None:
    study = Study(("regularizer=none",), (), "max", 10)
    assert study.trials == 1
    assert study.ask(0, [], tpe, 0) == ("regularizer=none",)
    assert study.corners() == [("regularizer=none",)]


def test_corners_have_all_values() -> None:
    corners = Study(("a=1",), (STRENGTH, LISTS[0]), "max", 9).corners()
    overrides = {override for corner in corners for override in corner}
    assert overrides == {"a=1", "strength=0.001", "strength=1", "strength=2", "strength=3"}


@pytest.mark.parametrize("end", ["pruned", "failed", "diverged"])
def test_trials_that_did_not_finish_are_no_results(end: str) -> None:
    bad = {
        "pruned": result(0.0, course=[0.1, 0.2], status="pruned"),
        "failed": result(0.0, status="failed"),
        "diverged": result(math.nan),
    }[end]
    study = Study((), (STRENGTH,), "max", 9)
    trials = [Trial(0, ("strength=0.1",), bad), *search(study)[1:6]]
    assert 0.001 <= strength_of(study.ask(6, trials, tpe, 0)) <= 1.0
    state, value = trials[0].end()
    assert value is None
    assert state == (optuna.trial.TrialState.PRUNED if end == "pruned" else state.FAIL)
