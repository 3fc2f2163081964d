"""The course of the objective, noted while a run trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
