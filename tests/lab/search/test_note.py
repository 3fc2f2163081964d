"""The course of the objective, noted while a run trains."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_share.lab.search import Course, NoteCourse


def trainer_in(**state: Any) -> Any:
    attributes = {
        "state": SimpleNamespace(fn=TrainerFn.FITTING),
        "sanity_checking": False,
        "callback_metrics": {"val": torch.tensor(0.5)},
        "current_epoch": 0,
        "max_epochs": 3,
        "should_stop": False,
        "is_global_zero": True,
        "strategy": SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
    }
    return SimpleNamespace(**(attributes | state))


class Stops(NoteCourse):
    def stops(self, trainer: Any) -> bool:
        return True


def test_by_itself_it_stops_nothing(tmp_path: Path) -> None:
    trainer = trainer_in()
    NoteCourse(tmp_path, "val", "max").on_validation_end(trainer, trainer)
    assert not trainer.should_stop
    assert Course.read(tmp_path) == Course([0.5])


@pytest.mark.parametrize(("mode", "best"), [("max", 0.8), ("min", 0.6)])
def test_a_value_that_is_not_a_number_is_the_worst(tmp_path: Path, mode: str, best: float) -> None:
    note = NoteCourse(tmp_path, "val", mode)
    for value in (math.nan, 0.7, math.nan, best, math.nan, 0.7):
        trainer = trainer_in(callback_metrics={"val": torch.tensor(value, dtype=torch.float64)})
        note.on_validation_end(trainer, trainer)
    assert math.isnan(note.course.best[0])
    assert note.course.best[1:] == [0.7, 0.7, best, best, best]


def test_a_run_that_ends_anyway_is_not_pruned(tmp_path: Path) -> None:
    for state in ({"current_epoch": 2}, {"should_stop": True}):
        trainer = trainer_in(**state)
        Stops(tmp_path, "val", "max").on_validation_end(trainer, trainer)
        assert not Course.read(tmp_path).is_pruned
    Stops(tmp_path, "val", "max").on_validation_end(trainer_in(), trainer)
    assert Course.read(tmp_path).is_pruned


def test_other_validations_are_not_noted(tmp_path: Path) -> None:
    note = NoteCourse(tmp_path, "val", "max")
    for state in (
        {"sanity_checking": True},
        {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)},
        {"callback_metrics": {}},
    ):
        note.on_validation_end(trainer_in(**state), trainer_in())
    assert note.course == Course()
