"""One process at a time works in a sweep's directory, and in a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_share.files import InUseError
from lit_share.lab.sweeps import alone_in, alone_in_run, settle


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    (folder,) = settle(tmp_path, {("seed=0",): "x"}).values()
    (tmp_path / folder).mkdir()
    return tmp_path / folder


def assert_exits(folder: Path, capsys: pytest.CaptureFixture[str], told: str, run: bool) -> None:
    attempt = alone_in(folder, "a sweep")
    if run:
        attempt = alone_in_run(folder, is_cell=False)
    with pytest.raises(SystemExit) as error, attempt:
        pass
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f": {told} works there since " in line
    assert line.endswith(": wait for it or stop it, or name another folder")


def test_a_second_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone_in(tmp_path, "a sweep"):
        assert_exits(tmp_path, capsys, "a sweep", run=False)


def test_single_runs_and_sweeps_in_one_directory(
    cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(cell.parent, "a sweep"):
        assert_exits(cell, capsys, "a sweep", run=True)
    with alone_in_run(cell, is_cell=False):
        assert_exits(cell.parent, capsys, "a run of its cell 0", run=False)
        assert_exits(cell, capsys, "a run of its cell 0", run=True)


def test_folders_that_are_no_cells(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = cell.parent / "notes"
    other.mkdir()
    with alone_in(cell.parent, "a sweep"), alone_in_run(other, is_cell=False):
        assert_exits(other, capsys, "a run", run=True)


def test_cells_run_while_their_sweep_does(cell: Path) -> None:
    """As jobs of launchers, in other processes."""
    with (
        alone_in(cell.parent, "a sweep"),
        alone_in_run(cell, is_cell=True),
        pytest.raises(InUseError, match="a cell of a sweep works there"),
        alone_in_run(cell, is_cell=True),
    ):
        pass
