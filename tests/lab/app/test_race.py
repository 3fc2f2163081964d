"""A run that is a trial of a race, and the winner's run after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_share.lab.app.run import run
from lit_share.lab.report import compare
from lit_share.lab.results import Result, read_results
from lit_share.lab.sweeps import settle

from .conftest import Compose

FAST = (
    "debug=fast",
    "logger=none",
    "callbacks=quiet",
    "callbacks.sharing=null",
    "trainer.max_epochs=4",
    "regularizer=hard_tie",
)
OVERRIDES = ("ties.exclude=[a.net.head.*]",)
CELLS = {OVERRIDES: "config"}
# What `cells.json` says of the winner, and of a trial.
WINNER = {"race": "r", "epochs": 2}
TRIAL = WINNER | {"trial": 1}


def cell(compose_config: Compose, folder: Path, *more: str) -> Result:
    own = ("hydra.mode=MULTIRUN", f"hydra.sweep.dir={folder.parent}")
    config = compose_config(*FAST, *own, *OVERRIDES, *more, output_dir=folder)
    run(config, folder, [*OVERRIDES])
    (result,) = read_results([folder])
    return result


def numbers(result: Result) -> dict[str, Any]:
    return {"epochs": result.epochs, "test": result.test, "validation": result.validation}


def test_the_winner_continues_its_trial(compose_config: Compose, tmp_path: Path) -> None:
    sweep, plain = tmp_path / "sweep", tmp_path / "plain"
    sweep.mkdir()
    settle(sweep, CELLS, {OVERRIDES: TRIAL})
    trial = cell(compose_config, sweep / "0")
    assert (trial.status, trial.epochs, len(trial.course), trial.test) == ("pruned", 2, 2, {})
    assert [*trial.layers] == ["a.net.trunk.linear0", "a.net.trunk.linear1"]
    settle(sweep, CELLS, {OVERRIDES: WINNER})
    with pytest.warns(UserWarning, match="Checkpoint directory"):
        winner = cell(compose_config, sweep / "0")
    assert (winner.status, len(winner.course), winner.layers) == ("finished", 4, trial.layers)
    plain.mkdir()
    assert numbers(winner) == numbers(cell(compose_config, plain / "0"))


def test_ties_are_tuned_so_that_a_row_has_the_winners_of_all_seeds(
    compose_config: Compose, tmp_path: Path
) -> None:
    settle(tmp_path, CELLS, {OVERRIDES: WINNER})
    result = cell(compose_config, tmp_path / "0")
    assert result.tune == ["ties.exclude"]
    other = replace(result, seed=1, overrides=["ties.exclude=[]"])
    (row,) = compare([result, other]).rows
    assert row.tuned == "ties.exclude=[a.net.head.*] (1), [] (1)"


def test_early_stopping_may_end_a_trial_before(compose_config: Compose, tmp_path: Path) -> None:
    settle(tmp_path, CELLS, {OVERRIDES: TRIAL | {"epochs": 3}})
    stops = ("callbacks=early_stopping", "callbacks.progress=null", "callbacks.sharing=null")
    patience = ("callbacks.early_stopping.patience=1", "model.classifier.lr=0")
    result = cell(compose_config, tmp_path / "0", *stops, *patience)
    assert (result.status, result.epochs, len(result.course)) == ("finished", 2, 2)
