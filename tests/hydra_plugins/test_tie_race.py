"""The sweeper that races layers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import CompactHydraException

from lit_share.lab.results import write_json

from . import _sweeps

LAYERS = {name: [f"a.net.{name}.*"] for name in ("head", "second", "first")}
# What untying a layer gains, in the trials of this launcher.
GAINS = {"a.net.head.*": 0.1, "a.net.second.*": 0.2, "a.net.first.*": -0.1}
ALL, ONE, TWO = (
    f"ties.exclude=[{text}]" for text in ("", "a.net.second.*", "a.net.head.*,a.net.second.*")
)


class Launcher(_sweeps.Launcher):
    # The patterns that the trial without a score excludes.
    not_a_number: Sequence[str] | None = None

    def run(self, folder: Path, values: dict[str, Any], overrides: tuple[str, ...]) -> None:
        entry = json.loads((folder.parent / "cells.json").read_text())[folder.name]
        score = 0.5 + sum(GAINS.get(pattern, 0.0) for pattern in values.get("ties.exclude", ()))
        result: dict[str, Any] = {
            "objective": "b/val/acc",
            "overrides": overrides,
            "course": [score],
            "layers": LAYERS,
            "status": "finished",
            "validation": {"b/val/acc": score},
        }
        if len(self.ran) in self.failing:
            result["status"] = "failed"
        elif "trial" in entry:
            result["status"] = "pruned"
        if values.get("ties.exclude") == self.not_a_number:
            result["course"] = [math.nan]
        write_json(folder / "result.json", result)


def make(directory: Path, *overrides: str, launcher: Any = None) -> Any:
    return _sweeps.make("race", directory, *overrides, launcher=launcher or Launcher())


def race(directory: Path, *overrides: str, stop: int | None = None) -> list[tuple[str, ...]]:
    """Race, and return the cells that ran."""
    return _sweeps.sweep("race", directory, *overrides, launcher=Launcher(stop))


def excluded(cells: Sequence[Sequence[str]]) -> list[str]:
    return [cell[-1] for cell in cells]


def ends(directory: Path) -> Mapping[str, str]:
    """How the cells ended, by what they exclude."""
    known = json.loads((directory / "cells.json").read_text())
    read = {c["overrides"][-1]: directory / f / "result.json" for f, c in known.items()}
    return {name: json.loads(path.read_text())["status"] for name, path in read.items()}


def test_a_race_unties_two_of_three_layers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cells = race(tmp_path, "regularizer=hard_tie", "seed=3")
    assert all(cell[:2] == ("regularizer=hard_tie", "seed=3") for cell in cells)
    first = ["a.net.head.*", "a.net.second.*", "a.net.first.*"]
    assert excluded(cells) == [
        ALL,
        *(f"ties.exclude=[{pattern}]" for pattern in first),
        TWO,
        "ties.exclude=[a.net.second.*,a.net.first.*]",
        TWO,
    ]
    assert [name for name, end in ends(tmp_path).items() if end == "finished"] == [TWO]
    told = [record.message for record in caplog.records if record.name.endswith("tie_race")]
    assert told == [
        "race, round 1: untied second, from 0.5 to 0.7 (+0.2000)",
        "race, round 2: untied head, from 0.7 to 0.8 (+0.1000)",
        "race: first stay tied, and the winner trains on",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_an_interrupted_race_has_the_same_cells(tmp_path: Path, stop: int) -> None:
    whole = race(tmp_path / "whole", "regularizer=hard_tie", "seed=0")
    first = race(tmp_path / "cut", "regularizer=hard_tie", "seed=0", stop=stop)
    rest = race(tmp_path / "cut", "regularizer=hard_tie", "seed=0")
    assert first + rest == whole
    assert race(tmp_path / "cut", "regularizer=hard_tie", "seed=0") == []
    assert ends(tmp_path / "cut") == ends(tmp_path / "whole")


def test_each_strategy_and_seed_is_a_race(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cells = race(tmp_path, "regularizer=none,hard_tie,soft_tie", "strength=0.1", "seed=0,1")
    names = [cell[0].partition("=")[2] for cell in cells]
    # A strategy without ties runs once, to its end.
    assert [names.count(name) for name in ("none", "hard_tie", "soft_tie")] == [2, 14, 14]
    assert "regularizer=soft_tie strength=0.1 seed=1, round 2: untied head" in caplog.text


def test_what_ties_exclude_already_stays_excluded(tmp_path: Path) -> None:
    cells = race(tmp_path, "regularizer=hard_tie", "ties.exclude=[c.net.x]", "seed=0")
    assert excluded(cells)[:2] == [
        "ties.exclude=[c.net.x]",
        "ties.exclude=[c.net.x,a.net.head.*]",
    ]


def test_failures_are_repeated_by_the_next_command(tmp_path: Path) -> None:
    sweeper = make(tmp_path, launcher=Launcher(failing=[2]))
    with pytest.raises(CompactHydraException, match="1 of 6 cells have not finished"):
        sweeper.sweep(["regularizer=hard_tie", "seed=0"])
    # Without the best layer, head was untied first.
    assert excluded(sweeper.launcher.ran)[4:] == [
        TWO,
        "ties.exclude=[a.net.head.*,a.net.first.*]",
        TWO,
    ]
    # Both ways lead to the winner, which has finished.
    assert excluded(race(tmp_path, "regularizer=hard_tie", "seed=0")) == [
        ONE,
        "ties.exclude=[a.net.second.*,a.net.first.*]",
    ]


def test_a_failure_of_all_ties_ends_the_race(tmp_path: Path) -> None:
    sweeper = make(tmp_path, launcher=Launcher(failing=[0]))
    with pytest.raises(CompactHydraException, match="1 of 1 cells have not finished"):
        sweeper.sweep(["regularizer=hard_tie", "seed=0"])
    assert len(sweeper.launcher.ran) == 1


@pytest.mark.parametrize(("patterns", "trials"), [([], 1), (["a.net.first.*"], 6)])
def test_a_trial_whose_score_is_no_number_fails(
    tmp_path: Path, patterns: list[str], trials: int
) -> None:
    first = Launcher()
    first.not_a_number = patterns
    with pytest.raises(CompactHydraException, match=f"1 of {trials} cells have not finished"):
        make(tmp_path, launcher=first).sweep(["regularizer=hard_tie", "seed=0"])
    again = race(tmp_path, "regularizer=hard_tie", "seed=0")
    assert excluded(again)[0] == f"ties.exclude=[{','.join(patterns)}]"
    assert [name for name, end in ends(tmp_path).items() if end == "finished"] == [TWO]


def test_a_resumed_race_counts_a_trial_whose_score_is_no_number(tmp_path: Path) -> None:
    cut = Launcher(stop=4)
    cut.not_a_number = ["a.net.first.*"]
    _sweeps.sweep("race", tmp_path, "regularizer=hard_tie", "seed=0", launcher=cut)
    rest = race(tmp_path, "regularizer=hard_tie", "seed=0")
    assert excluded(rest)[0] == "ties.exclude=[a.net.first.*]"
    assert excluded(rest)[-1] == TWO


def test_another_config_starts_anew(tmp_path: Path) -> None:
    arguments = ("regularizer=hard_tie", "seed=0")
    first = race(tmp_path, *arguments)
    known = json.loads((tmp_path / "cells.json").read_text())
    for cell in known.values():
        cell["config"] = "another"
    write_json(tmp_path / "cells.json", known)
    assert race(tmp_path, *arguments) == first


def test_trials_have_a_quarter_of_the_epochs(tmp_path: Path) -> None:
    race(tmp_path, "regularizer=hard_tie", "seed=0", "trainer.max_epochs=30")
    known = json.loads((tmp_path / "cells.json").read_text())
    assert {cell["epochs"] for cell in known.values()} == {8}
    assert sum("trial" not in cell for cell in known.values()) == 1
    sweeper = make(tmp_path, "hydra.sweeper.epochs=5")
    with pytest.raises(CompactHydraException, match=r"epochs=5: the trials in .* have 8 epochs"):
        sweeper.sweep(["regularizer=hard_tie", "seed=0", "trainer.max_epochs=30"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["trainer.max_epochs=-1"], "hydra/sweeper=race needs trainer.max_epochs"),
        (["hydra.sweeper.epochs=0"], "hydra.sweeper.epochs=0: trials train fewer than"),
        (["hydra.sweeper.epochs=5", "trainer.max_epochs=5"], "epochs=5: trials train fewer than"),
        (["+trainer.min_epochs=9", "hydra.sweeper.epochs=5"], "trainer.min_epochs=9 keeps trials"),
        (["regularizer=soft_tie", "strength=path"], "strength=path: a path begins without"),
        (
            ["regularizer=soft_tie", "strength={path:{steps:2,epochs:2}}"],
            "strength=.*path.*: a path begins without",
        ),
        (["regularizer=hard_tye"], "(?s)Nothing was run.*regularizer/hard_tye"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tmp_path: Path, overrides: list[str], told: str
) -> None:
    _sweeps.assert_refused("race", tmp_path / "new", overrides, told, launcher=Launcher())


def test_a_dry_run_lists_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arguments = ["regularizer=none,hard_tie", "seed=0"]
    race(tmp_path, *arguments, stop=3)
    dry = make(tmp_path, "dry_run=true")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        dry.sweep(arguments)
    assert stopped.value.code == 0
    assert "1 races: each tries at most L (L + 1) / 2 sets" in caplog.text
    # `none` has finished, and all ties and one of three layers are known.
    assert "5 cells: 1 finished, 2 pruned, 2 to run" in capsys.readouterr().out
    assert dry.launcher.ran == []
