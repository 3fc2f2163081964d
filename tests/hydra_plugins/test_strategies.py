"""The sweeper leaves out cells that would only be repeated."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import CompactHydraException
from hydra.types import RunMode

from lit_share.files import locked
from lit_share.lab.app.config import register_schema
from lit_share.lab.sweeps import EndWith

CONF = Path(__file__).parents[2] / "conf"


def make(directory: Path, *overrides: str) -> Any:
    """Make the sweeper of `train.py`, whose launcher fails the test that uses it."""
    register_schema()
    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{CONF}"))
    # Hydra executes plugins again when it finds them, so this class must be Hydra's.
    found = Plugins.instance().class_name_to_class[
        "hydra_plugins.lit_share_strategies.StrategySweeper"
    ]
    made: Any = found(max_batch_size=None)
    made.hydra_context = SimpleNamespace(config_loader=loader)
    own = [f"hydra.sweep.dir={directory}", *overrides]
    made.config = loader.load_configuration("train", overrides=own, run_mode=RunMode.MULTIRUN)
    made.launcher = SimpleNamespace()
    return made


@pytest.fixture
def sweeper(tmp_path: Path) -> Any:
    return make(tmp_path / "sweep")


def cells(
    sweeper: Any, *overrides: str, max_batch_size: int | None = None
) -> list[list[list[str]]]:
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    parsed = parser.parse_overrides(list(overrides))
    return sweeper.split_arguments(parsed, max_batch_size)  # type: ignore[no-any-return]


def test_a_second_start_says_so_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeper = make(tmp_path)
    with locked(tmp_path, "a sweep"), pytest.raises(SystemExit) as error:
        sweeper.sweep(["seed=0,1"])
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}: a sweep works there since ")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_sweep_leaves_no_lock(tmp_path: Path) -> None:
    """The launcher fails, and the sweep ends."""
    with pytest.raises(AttributeError):
        make(tmp_path).sweep(["seed=0,1"])
    with locked(tmp_path, "another"):
        pass


def test_workers_of_joblib_end_with_the_sweep(sweeper: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweeper.launcher, "joblib", {"n_jobs": 2}, raising=False)
    sweeper._let_workers_end()
    assert sweeper.launcher.joblib == {"n_jobs": 2, "initializer": EndWith(os.getpid())}


def test_strength_varies_only_where_there_is_one(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=none,soft_tie,hard_tie", "strength=0.1,0.2", "seed=0,1")
    assert grid == [
        ["regularizer=none", "seed=0"],
        ["regularizer=none", "seed=1"],
        ["regularizer=soft_tie", "strength=0.1", "seed=0"],
        ["regularizer=soft_tie", "strength=0.1", "seed=1"],
        ["regularizer=soft_tie", "strength=0.2", "seed=0"],
        ["regularizer=soft_tie", "strength=0.2", "seed=1"],
        ["regularizer=hard_tie", "seed=0"],
        ["regularizer=hard_tie", "seed=1"],
    ]


def test_combined_regularizers_have_a_strength(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=[growl,l2]", "strength=0.1,0.2")
    assert len(grid) == 2


def test_default_regularizer_counts(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "strength=0.1,0.2")
    assert grid == [["strength=0.1"], ["strength=0.2"]]


def test_batches_have_the_asked_size(sweeper: Any) -> None:
    batches = cells(sweeper, "regularizer=none,soft_tie", "strength=0.1,0.2", max_batch_size=2)
    assert [len(batch) for batch in batches] == [2, 1]


def test_ties_vary_only_where_they_are_read(sweeper: Any) -> None:
    (grid,) = cells(sweeper, "regularizer=none,lasso,hard_tie", "ties=all,first_layer")
    assert grid == [
        ["regularizer=none", "ties=all"],
        ["regularizer=lasso", "ties=all"],
        ["regularizer=hard_tie", "ties=all"],
        ["regularizer=hard_tie", "ties=first_layer"],
    ]


def test_keys_of_ties_vary_only_where_they_are_read(sweeper: Any) -> None:
    (grid,) = cells(
        sweeper, "regularizer=none,lasso,hard_tie", "ties.exclude=[],[*.bias]", "seed=0,1"
    )
    assert [cell[:2] for cell in grid if cell[2] == "seed=1"] == [
        ["regularizer=none", "ties.exclude=[]"],
        ["regularizer=lasso", "ties.exclude=[]"],
        ["regularizer=hard_tie", "ties.exclude=[]"],
        ["regularizer=hard_tie", "ties.exclude=[*.bias]"],
    ]
    assert len(grid) == 8


def test_ranges_are_for_another_sweeper(sweeper: Any) -> None:
    with pytest.raises(CompactHydraException, match=r"strength=interval\(0.1,1\): a grid lists"):
        cells(sweeper, "strength=interval(0.1,1)")


GRID = ("regularizer=none,soft_tie", "strength=0.1,-1", "seed=0,1")


def test_nothing_is_run_if_a_cell_is_wrong(sweeper: Any, tmp_path: Path) -> None:
    told = r"(?s)Nothing was run.*strength must be .* got -1.0 \(2 of 6 cells, first .*seed=0\)"
    with pytest.raises(CompactHydraException, match=told):
        sweeper.sweep([*GRID])
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_lists_cells_and_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = make(tmp_path / "sweep", "dry_run=true")
    with pytest.raises(SystemExit) as stopped:
        dry.sweep([*GRID, "regularizer=none,soft_tie,soft_tye", "dry_run=true"])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "10 cells: 4 to run, 6 wrong" in printed
    assert "Could not find 'regularizer/soft_tye'" in printed
    assert "got -1.0 (2 of 10 cells" in printed
    assert "dry_run" not in printed
    assert not (tmp_path / "sweep").exists()


def test_a_dry_run_of_correct_cells_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = make(tmp_path / "sweep", "dry_run=true")
    with pytest.raises(SystemExit) as stopped:
        dry.sweep(["regularizer=none,soft_tie", "seed=0,1"])
    assert stopped.value.code == 0
    assert "4 cells: 4 to run" in capsys.readouterr().out
