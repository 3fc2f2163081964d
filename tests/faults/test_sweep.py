"""A sweep whose processes die, whose files are damaged, and what it makes of that."""

from __future__ import annotations

import json
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.lit_share_strategies import StrategySweeper
from lit_share.lab.results import write_json
from lit_share.lab.sweeps import checkpoint_to_resume, settle, status

from ._system import full_disk


class Launcher:
    """Runs cells side by side; a cell's process dies ``deaths`` times, and all others with it."""

    def __init__(self, deaths, side_by_side=2):
        self.deaths, self.side_by_side, self.launched = dict(deaths), side_by_side, []

    def launch(self, placed, initial_job_idx):
        cells = [cell[0] for cell in placed]
        self.launched.append(cells)
        folders = {cell[0]: self.root / cell[-1].split("'")[1] for cell in placed}
        for i in range(0, len(cells), self.side_by_side):
            together = cells[i : i + self.side_by_side]
            for cell in together:
                (folders[cell] / ".hydra").mkdir(parents=True, exist_ok=True)
                (folders[cell] / ".hydra" / "overrides.yaml").write_text(cell)
            for cell in together:
                if self.deaths.get(cell, 0):
                    self.deaths[cell] -= 1
                    raise BrokenProcessPool("a process was killed")
            for cell in together:
                write_json(folders[cell] / "result.json", {"status": "finished"})
        done = JobReturn(status=JobStatus.COMPLETED)
        done.return_value = 0.0
        return [done for _ in cells]


@pytest.fixture
def launch(tmp_path):
    def launch_(launcher, names="abcdef", batch=None):
        dead = []

        def note(cell, folder, _):
            dead.append(cell[0])
            write_json(folder / "result.json", {"status": "failed"})

        launcher.root = tmp_path
        sweeper = SimpleNamespace(launcher=launcher, max_batch_size=batch, _note_death=note)
        cells = [(name,) for name in names]
        returns = {}
        StrategySweeper._launch(
            sweeper, cells, {cell: tmp_path / str(i) for i, cell in enumerate(cells)}, returns
        )
        return dead, [status(tmp_path / str(i)) for i in range(len(cells))]

    return launch_


def test_without_a_death_all_cells_are_launched_at_once(launch):
    launcher = Launcher({})
    assert launch(launcher) == ([], ["finished"] * 6)
    assert launcher.launched == [[*"abcdef"]]


def test_cells_that_were_under_way_are_launched_again_one_by_one_and_the_rest_together(launch):
    launcher = Launcher({"d": 1})
    assert launch(launcher) == ([], ["finished"] * 6)
    assert launcher.launched == [[*"abcdef"], ["c"], ["d"], ["e", "f"]]


def test_only_the_cell_that_dies_twice_has_failed(launch):
    launcher = Launcher({"c": 9, "f": 9})
    assert launch(launcher) == (
        ["c", "f"],
        ["finished", "finished", "failed", "finished", "finished", "failed"],
    )
    assert launcher.launched == [[*"abcdef"], ["c"], ["d"], ["e", "f"], ["e"], ["f"]]


def test_batches(launch):
    launcher = Launcher({"d": 1})
    assert launch(launcher, batch=3) == ([], ["finished"] * 6)
    assert launcher.launched == [["a", "b", "c"], ["d", "e", "f"], ["d"], ["e"], ["f"]]


def test_a_launcher_that_starts_nothing_is_not_tried_for_ever(launch):
    class Broken(Launcher):
        def launch(self, placed, initial_job_idx):
            raise BrokenProcessPool("nothing starts")

    with pytest.raises(BrokenProcessPool):
        launch(Broken({}))


def test_other_launchers_errors_are_theirs(launch):
    class Other(Launcher):
        def launch(self, placed, initial_job_idx):
            raise RuntimeError("processes of mine may still run")

    with pytest.raises(RuntimeError):
        launch(Other({}))


@pytest.mark.parametrize("content", ["", '{"status": "fini', "[]", "{}", "null"])
def test_a_damaged_result_is_none(tmp_path, content):
    settle(tmp_path, {("seed=0",): "x"})
    (tmp_path / "0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "0" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "0" / "result.json").write_text(content)
    assert status(tmp_path / "0") is None
    assert settle(tmp_path, {("seed=0",): "x"}) == {("seed=0",): "0"}
    assert checkpoint_to_resume(tmp_path / "0") is not None


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_json(tmp_path / "file.json", {"one": 1})
    with full_disk(100), pytest.raises(OSError, match=r"File too large: '.*file.json'"):
        write_json(tmp_path / "file.json", {"two": 2 * list(range(100))})
    assert json.loads((tmp_path / "file.json").read_text()) == {"one": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
