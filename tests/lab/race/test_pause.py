"""Trials of a race stop after their epochs, and winners do not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_share.lab.race import Pause
from lit_share.lab.search import Course


def run(pause: Pause, values: list[float], epoch: int = 0) -> Any:
    """Validate until the run stops, and return the trainer."""
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        callback_metrics={},
        current_epoch=epoch,
        max_epochs=6,
        should_stop=False,
        is_global_zero=True,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision),
    )
    pause.on_train_start(trainer, trainer)
    for value in values:
        if trainer.should_stop:
            break
        trainer.callback_metrics["val"] = torch.tensor(value, dtype=torch.float64)
        pause.on_validation_end(trainer, trainer)
        trainer.current_epoch += 1
    return trainer


@pytest.mark.parametrize(("mode", "best"), [("max", [0.5, 0.75, 0.75]), ("min", [0.5, 0.5, 0.25])])
def test_a_trial_stops_and_notes_its_course(tmp_path: Path, mode: str, best: list[float]) -> None:
    trainer = run(Pause(tmp_path, "val", mode, 3), [0.5, 0.75, 0.25, 1.0])
    assert trainer.current_epoch == 3
    assert Course.read(tmp_path) == Course(best, is_pruned=True)


def test_a_winner_goes_on_where_its_trial_stopped(tmp_path: Path) -> None:
    trial = Pause(tmp_path, "val", "max", 3)
    run(trial, [0.5] * 6)
    winner = Pause(tmp_path, "val", "max", None)
    winner.load_state_dict(trial.state_dict())
    trainer = run(winner, [0.75, 0.25, 1.0], epoch=3)
    assert trainer.current_epoch == 6
    assert Course.read(tmp_path) == Course([0.5] * 3 + [0.75, 0.75, 1.0], is_pruned=False)


def test_a_trial_that_was_killed_after_its_last_epoch_trains_no_other(tmp_path: Path) -> None:
    trial = Pause(tmp_path, "val", "max", 3)
    run(trial, [0.5] * 6)
    again = Pause(tmp_path, "val", "max", 3)
    again.load_state_dict(trial.state_dict())
    assert run(again, [1.0], epoch=3).current_epoch == 3
    assert again.course == Course([0.5] * 3, is_pruned=True)


def test_validations_that_skip_epochs_stop_at_the_next(tmp_path: Path) -> None:
    pause = Pause(tmp_path, "val", "max", 3)
    assert not run(pause, [0.5], epoch=1).should_stop
    assert run(pause, [0.5], epoch=3).should_stop
