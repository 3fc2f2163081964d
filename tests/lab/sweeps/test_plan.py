"""What a dry run prints of a sweep's cells."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from lit_share.lab.results import write_json
from lit_share.lab.sweeps import Cell, SweepPlan, described, settle, states


def ended(folder: Path, status: str, seconds: float) -> None:
    """What a cell leaves that took this long, of which half was training."""
    (folder / ".hydra").mkdir(parents=True)
    write_json(folder / "result.json", {"status": status, "seconds": seconds / 2})
    (folder / ".hydra" / "overrides.yaml").touch()
    end = (folder / "result.json").stat().st_mtime
    os.utime(folder / ".hydra" / "overrides.yaml", (end - seconds, end - seconds))


def printed(plan: SweepPlan) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(plan)
    return capture.get()


def cell(strategy: str, seed: int) -> Cell:
    return ("data=digits", f"regularizer={strategy}", f"seed={seed}")


CELLS = {cell(strategy, seed): "config" for strategy in ("none", "l2") for seed in range(6)}


def test_a_new_sweep_is_listed_by_strategy(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    text = printed(SweepPlan(directory, states(directory, CELLS)))
    assert "in all cells: data=digits" in text
    assert "none          0, 1, …, 5   6       6 to run" in text
    assert "12 cells: 12 to run\n" in text
    assert "how long they take is unknown" in text
    assert not directory.exists()


def test_states_of_a_sweep_that_has_begun(tmp_path: Path) -> None:
    settle(tmp_path, CELLS)
    ended(tmp_path / "0", "finished", 100)
    ended(tmp_path / "1", "failed", 1)
    ended(tmp_path / "6", "finished", 20)
    (tmp_path / "2").mkdir()
    before = (tmp_path / "cells.json").read_bytes()
    found = states(tmp_path, {**CELLS, cell("none", 5): "other", cell("none", 9): "config"})
    shown = {" ".join(c[1:]): state for c, (state, _) in found.items()}
    assert [shown[f"regularizer=none seed={i}"] for i in (0, 1, 2, 3, 5, 9)] == [
        "finished",
        "failed",
        "interrupted",
        "new",
        "changed",
        "new",
    ]
    assert (tmp_path / "cells.json").read_bytes() == before
    plan = SweepPlan(tmp_path, found)
    assert "2 finished, 1 to resume, 1 failed, to run again, 1 to run again, as" in plan.summary()
    # Each strategy by its own cell: 6 · 100 s + 5 · 20 s.
    seconds, measured = plan.estimate() or (0, 0)
    assert (round(seconds), measured) == (700, 2)
    assert "about 12 min left if they run one by one, by 2 finished cells" in plan.summary()


def test_a_strategy_without_finished_cells_takes_as_long_as_the_others(tmp_path: Path) -> None:
    settle(tmp_path, CELLS)
    ended(tmp_path / "0", "finished", 100)
    seconds, _ = SweepPlan(tmp_path, states(tmp_path, CELLS)).estimate() or (0, 0)
    assert round(seconds) == 1100


def test_problems_name_their_cells() -> None:
    cells = [*CELLS]
    assert described({"no GPU": cells, "no strength": cells[:6], "odd": cells[7:8]}, cells) == [
        "no GPU (12 of 12 cells, first regularizer=none seed=0)",
        "no strength (6 of 12 cells, first regularizer=none seed=0)",
        "odd (1 of 12 cells: regularizer=l2 seed=1)",
    ]
    plan = SweepPlan(Path(), dict.fromkeys(cells, ("new", None)), {"odd\x1b": cells[:1]})
    assert "wrong: odd\\x1b (1 of 12 cells: regularizer=none seed=0)" in plan.summary()
    assert "nothing is wrong" not in plan.summary()
