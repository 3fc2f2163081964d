"""A run that is a trial of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_share.lab.app.run import run
from lit_share.lab.report import compare
from lit_share.lab.results import Result, read_results, write_json
from lit_share.lab.sweeps import settle, status

from .conftest import Compose

pytest.importorskip("optuna")

FAST = (
    "debug=fast",
    "logger=none",
    "callbacks=quiet",
    "callbacks.sharing=null",
    "trainer.max_epochs=6",
    "hydra/sweeper=optuna",
    "hydra.sweeper.pruner.n_warmup_steps=2",
)
CELLS = {(f"strength={strength}",): "config" for strength in (0.1, 0.2)}
TRIALS = {cell: {"study": "s", "trial": number} for number, cell in enumerate(CELLS)}


def trial(compose_config: Compose, directory: Path, folder: str, *overrides: str) -> Result:
    own = ("hydra.mode=MULTIRUN", f"hydra.sweep.dir={directory}")
    config = compose_config(*FAST, *own, *overrides, output_dir=directory / folder)
    run(config, directory / folder, [*overrides])
    (result,) = read_results([directory / folder])
    return result


@pytest.fixture
def best(tmp_path: Path, write: Any) -> Path:
    """The directory of a search, whose first trial was as good as can be."""
    settle(tmp_path, CELLS, TRIALS)
    write(tmp_path / "0", "soft_tie", val=1.0, course=[1.0] * 6, strength=0.1)
    return tmp_path


def test_an_unpromising_trial_is_neither_tested_nor_compared(
    compose_config: Compose, best: Path
) -> None:
    result = trial(compose_config, best, "1", "strength=0.2")
    assert (result.status, result.epochs, len(result.course)) == ("pruned", 3, 3)
    assert (result.strength, result.test, result.validation) == (0.2, {}, {})
    comparison = compare(read_results([best]))
    (row,) = comparison.rows
    assert [run.strength for run in row.tried] == [0.1]
    assert (comparison.pruned, comparison.failures, row.failed) == (1, (), 0)


def test_a_grid_of_the_same_cells_resumes_it(compose_config: Compose, best: Path) -> None:
    pruned = trial(compose_config, best, "1", "strength=0.2")
    settle(best, CELLS, TRIALS)
    assert status(best / "1") == "pruned"
    settle(best, CELLS)
    assert status(best / "1") is None
    with pytest.warns(UserWarning, match="Checkpoint directory|callbacks used to create"):
        result = trial(compose_config, best, "1", "strength=0.2")
    assert (result.status, result.epochs, result.course) == ("finished", 6, [])
    assert result.checkpoint is not None
    assert pruned.seconds is not None


def test_the_first_trial_finishes(compose_config: Compose, tmp_path: Path) -> None:
    settle(tmp_path, CELLS, TRIALS)
    result = trial(compose_config, tmp_path, "0", "strength=0.1")
    assert (result.status, result.epochs) == ("finished", 6)
    # The best checkpoint is tested, and the course ends with its objective.
    assert result.course == sorted(result.course)
    assert result.course[-1] == pytest.approx(result.validation["b/val/acc"])


def test_checkpoints_have_the_course_of_their_validation(
    compose_config: Compose, tmp_path: Path
) -> None:
    settle(tmp_path, CELLS, TRIALS)
    # Checkpoints are then saved where validation ends.
    result = trial(
        compose_config, tmp_path, "0", "strength=0.1", "+trainer.check_val_every_n_epoch=2"
    )
    assert result.checkpoint is not None
    saved = torch.load(result.checkpoint, weights_only=False)
    (state,) = (own for key, own in saved["callbacks"].items() if "Prune" in key)
    assert state["best"] == result.course[: (saved["epoch"] + 1) // 2]


def test_without_a_pruner_all_finish(compose_config: Compose, best: Path) -> None:
    result = trial(compose_config, best, "1", "strength=0.2", "hydra.sweeper.pruner=null")
    assert (result.status, len(result.course)) == ("finished", 6)


@pytest.mark.slow
def test_a_retraining_after_a_pruned_phase_is_left_out(compose_config: Compose, best: Path) -> None:
    result = trial(compose_config, best, "1", "strength=0.2", "regularizer=growl")
    assert (result.status, result.rows, result.epochs) == ("pruned", None, 3)


def test_runs_outside_of_searches_have_no_course(compose_config: Compose, tmp_path: Path) -> None:
    write_json(tmp_path / "cells.json", {"1": {"study": "s", "trial": 1, "overrides": []}})
    config = compose_config(*FAST, output_dir=tmp_path / "1")
    run(config, tmp_path / "1", [])
    result = json.loads((tmp_path / "1" / "result.json").read_text())
    assert (result["status"], result["epochs"], result["course"]) == ("finished", 6, [])


def test_a_dry_run_trains_nothing(
    compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose_config("debug=fast", "logger=wandb", "dry_run=true")
    assert run(config, tmp_path, []) is None
    printed = capsys.readouterr().out
    assert "Tie plan" in printed
    assert "nothing is trained" in printed
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "wandb").exists()
