"""The sweeper that searches with Optuna."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import CompactHydraException

from lit_share.lab.results import write_json

from . import _sweeps

pytest.importorskip("optuna")

RANGE = "strength=tag(log,interval(0.001,1))"
GRID = ("regularizer=none,l2", "seed=0,1,2")


class Launcher(_sweeps.Launcher):
    def run(self, folder: Path, values: dict[str, Any], overrides: tuple[str, ...]) -> None:
        strength = values.get("strength", 0.5)
        if not isinstance(strength, (int, float)):
            strength = 0.5
        result = {
            "schema": 1,
            "strategy": values["regularizer"],
            "seed": values["seed"],
            "objective": "b/val/acc",
            "mode": "max",
            "overrides": overrides,
            "course": [1.0 - strength],
        }
        ended = {"status": "finished", "validation": {"b/val/acc": 1.0 - strength}}
        if (len(self.ran), values["regularizer"]) in self.failing:
            ended = {"status": "failed"}
        elif strength > 0.7:
            ended = {"status": "pruned"}
        write_json(folder / "result.json", result | ended)


def make(directory: Path, *overrides: str, launcher: Any = None) -> Any:
    return _sweeps.make("optuna", directory, *overrides, launcher=launcher or Launcher())


def search(directory: Path, *overrides: str, stop: int | None = None) -> list[tuple[str, ...]]:
    """Search, and return the cells that ran."""
    return _sweeps.sweep("optuna", directory, *overrides, launcher=Launcher(stop))


def strategies(cells: Sequence[tuple[str, ...]]) -> list[str]:
    return sorted(cell[0].partition("=")[2] + " " + cell[1] for cell in cells)


def test_each_strategy_and_seed_has_the_same_budget(tmp_path: Path) -> None:
    cells = search(tmp_path, *GRID, RANGE, "hydra.sweeper.n_trials=3")
    # Without a strength there is nothing to search.
    expected = [("l2", 3), ("none", 1)]
    assert strategies(cells) == [
        f"{name} seed={seed}" for name, times in expected for seed in range(3) for _ in range(times)
    ]
    assert len(set(cells)) == len(cells) == 12
    known = json.loads((tmp_path / "cells.json").read_text())
    assert sorted(cell["trial"] for cell in known.values()) == [0] * 6 + [1] * 3 + [2] * 3
    assert not any(cell["earlier"] for cell in known.values())


@pytest.mark.slow
def test_an_interrupted_search_has_the_same_trials(tmp_path: Path) -> None:
    arguments = (*GRID, RANGE, "hydra.sweeper.n_trials=4")
    whole = search(tmp_path / "whole", *arguments)
    first = search(tmp_path / "cut", *arguments, stop=7)
    assert len(first) == 7
    rest = search(tmp_path / "cut", *arguments)
    assert first + rest == whole
    assert search(tmp_path / "cut", *arguments) == []


def test_more_trials_continue_a_search(tmp_path: Path) -> None:
    few = search(tmp_path, "regularizer=l2", "seed=0", RANGE, "hydra.sweeper.n_trials=2")
    more = search(tmp_path, "regularizer=l2", "seed=0", RANGE, "hydra.sweeper.n_trials=5")
    assert (len(few), len(more)) == (2, 3)
    other = (RANGE, "hydra.sweeper.n_trials=5", "hydra.sweeper.seed=1")
    assert search(tmp_path / "other", "regularizer=l2", "seed=0", *other)[2:] != more


def test_results_decide_the_trials(tmp_path: Path) -> None:
    """Small strengths are the best that this launcher knows."""
    cells = search(tmp_path, "regularizer=l2", "seed=0", RANGE, "hydra.sweeper.n_trials=24")
    strengths = [float(cell[-1].partition("=")[2]) for cell in cells]
    assert sum(strengths[12:]) < sum(strengths[:12])


def test_lists_of_strengths_are_tried_entirely(tmp_path: Path) -> None:
    cells = search(tmp_path, "regularizer=none,l2", "seed=0", "strength=0.01,0.1,1")
    assert [cell[-1] for cell in cells] == ["seed=0", "strength=0.1", "strength=0.01", "strength=1"]


def test_ways_to_find_strengths_are_studies_of_their_own(tmp_path: Path) -> None:
    ways = "learned", "{path:{steps:2,epochs:1}}", "{path:{steps:3,epochs:1}}"
    cells = search(
        tmp_path,
        "regularizer=none,l2",
        "seed=0",
        f"strength=0.1,{','.join(ways)},0.2,0.3",
        "trainer.max_epochs=4",
        "hydra.sweeper.n_trials=2",
    )
    strengths = [o.partition("=")[2] for cell in cells for o in cell if o.startswith("strength=")]
    # Each number of a study is tried before the next one.
    assert sorted(strengths) == sorted([*ways, "0.2", "0.1"])
    known = json.loads((tmp_path / "cells.json").read_text())
    studies = {cell["study"] for cell in known.values() if "regularizer=l2" in cell["overrides"]}
    assert {study.partition("strength=")[2].partition(" ")[0] for study in studies} == {
        "0.1,0.2,0.3",
        "learned",
        ",".join(ways[1:]),
    }


def test_ties_that_are_not_read_are_not_searched(tmp_path: Path) -> None:
    tuned = ("ties=all,first_layer", "tune=[ties]", "strength=0.1,0.2")
    cells = search(tmp_path, "regularizer=none,hard_tie,soft_tie", "seed=0", *tuned)
    assert [name.split()[0] for name in strategies(cells)] == (
        ["hard_tie"] * 2 + ["none"] + ["soft_tie"] * 4
    )


def test_failures_stay_until_the_next_command(tmp_path: Path) -> None:
    arguments = ("regularizer=l2", "seed=0", RANGE)
    options = "hydra.sweeper.n_trials=3"
    sweeper = make(tmp_path, options, launcher=Launcher(failing=[(1, "l2")]))
    with pytest.raises(CompactHydraException, match="1 of 3 cells have not finished"):
        sweeper.sweep([*arguments])
    cells = sweeper.launcher.ran
    assert len(cells) == 3
    ends = [json.loads((tmp_path / f / "result.json").read_text())["status"] for f in "012"]
    assert ends[:2] == ["finished", "failed"]
    assert search(tmp_path, *arguments, options) == [cells[1]]


def test_a_launcher_that_fails_ends_the_search(tmp_path: Path) -> None:
    class Broken(Launcher):
        def run(self, *cell: Any) -> None:
            if self.ran:
                raise OSError("no space left")
            super().run(*cell)

    sweeper = make(tmp_path, "hydra.sweeper.n_trials=4", launcher=Broken())
    with pytest.raises(CompactHydraException, match="1 of 2 cells have not finished"):
        sweeper.sweep(["regularizer=l2", "seed=0", RANGE])
    assert len(sweeper.launcher.ran) == 1


def test_a_grid_of_the_same_cells_finishes_what_was_pruned(tmp_path: Path) -> None:
    search(tmp_path, "regularizer=l2", "seed=0", "strength=0.1,0.8")
    assert search(tmp_path, "regularizer=l2", "seed=0", "strength=0.1,0.8") == []
    grid = make(tmp_path, "hydra/sweeper=strategies", launcher=Launcher())
    grid.sweep(["regularizer=l2", "seed=0", "strength=0.1,0.8"])
    assert grid.launcher.ran == [("regularizer=l2", "seed=0", "strength=0.8")]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seed=0,1"], "hydra/sweeper=optuna has nothing to choose"),
        ([RANGE, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: write 1 or more"),
        ([RANGE, "hydra.sweeper.n_trials=abc"], "hydra.sweeper.n_trials=abc: write 1 or more, a"),
        (["strength=interval(0.1,1),5"], r"strength=interval\(0.1,1\),5: a range stands alone"),
        (["model.classifier.lr=interval(0.1,1)"], r"write tune=\[model.classifier.lr\]"),
        ([RANGE, "regularizer=l2,soft_tye"], "(?s)Nothing was run.*regularizer/soft_tye"),
        (
            [RANGE, "hydra.sweeper.pruner._target_=optuna.pruners.HyperbandPruner"],
            "hydra.sweeper.pruner: .*n_startup_trials",
        ),
        (["strength=interval(-1,1)"], "strength must be a finite number >= 0, got -1.0"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tmp_path: Path, overrides: list[str], told: str
) -> None:
    _sweeps.assert_refused("optuna", tmp_path / "new", overrides, told, launcher=Launcher())


def test_another_pruner_and_sampler(tmp_path: Path) -> None:
    names = {"pruner": "optuna.pruners.HyperbandPruner", "sampler": "optuna.samplers.RandomSampler"}
    options = []
    for name, target in names.items():
        key = f"hydra.sweeper.{name}"
        options += [f"~{key}", f"+{key}._target_={target}"]
    sweeper = make(tmp_path, "hydra.sweeper.n_trials=2", *options)
    sweeper.sweep(["regularizer=l2", "seed=0", RANGE])
    assert len(sweeper.launcher.ran) == 2
    assert [sweeper.pruner._target_, sweeper.sampler._target_] == [*names.values()]


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CompactHydraException, match=r'pip install "lit-share\[search\]"'):
        make(tmp_path).sweep([RANGE])


def test_a_dry_run_counts_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*GRID, RANGE, "hydra.sweeper.n_trials=4")
    search(tmp_path, *arguments, stop=7)
    dry = make(tmp_path, "dry_run=true", "hydra.sweeper.n_trials=4")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        dry.sweep([*GRID, RANGE])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "15 cells: 7 finished, 8 to run" in printed
    assert f"l2            {RANGE.partition('=')[2]}" in printed
    assert "3 × 2 trials" in printed
    assert dry.launcher.ran == []
