"""Penalties and hard sharing train as they ought to, whatever the mode of training.

At the end of a run a table is printed. In each cell the weights after all steps, and the penalty that is logged, are
those of a plain loop in float64 that has the penalty in its loss, or takes its textbook proximal step; and they would
not be with half or twice the strength.
"""

from __future__ import annotations

import os
import pickle
from itertools import product
from pathlib import Path

import pytest
from filelock import FileLock

from . import _one_process, _sharded_members, _two_processes
from ._reference import HARD, STRATEGIES

pytestmark = pytest.mark.modes


def word(row, column):
    """What a cell says that passed."""
    if row == HARD:
        return "refused" if column in ("two rates", "FSDP2 each") else "ok"
    refused = column in ("LBFGS", "FSDP1", "DeepSpeed")
    refused |= row == "trace_norm" and column in ("two opt.", "two rates", "FSDP2 two opt.")
    refused |= row not in _two_processes.KEEPING and column.startswith("FSDP2 zeros")
    return "refused" if refused else "ok"


@pytest.fixture(autouse=True)
def _cell(request, record_property):
    """What the table needs to know."""
    names = request.node.callspec.params
    if "row" not in names:
        return
    record_property("mode", (names["column"], names["row"], word(names["row"], names["column"])))


def mark(column):
    return [pytest.mark.multiprocess] if column == "DDP spawn" else []


def cells():
    """In one process; starting others takes too long to do it for rows that are pickled as others are."""
    for column, row in product(_one_process.HERE, STRATEGIES):
        if column != "DDP spawn" or row not in ("layer_tie", "oscar", "trace_norm"):
            yield column, row


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch, of its own code
@pytest.mark.parametrize(("column", "row"), [pytest.param(column, row, marks=mark(column)) for column, row in cells()])
def test_one_process(column, row, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where spawned processes find these modules
    _one_process.HERE[column](row)


@pytest.fixture(scope="session")
def errors(tmp_path_factory):
    """What failed in two processes; where tests are spread over processes, the first one that asks runs them."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    with FileLock(directory / "modes.lock"):
        results = directory / "modes.pickle"
        if not results.exists():
            (directory / "modes").mkdir()
            results.write_bytes(pickle.dumps(_two_processes.run_in_two(directory / "modes")))
        return pickle.loads(results.read_bytes())


@pytest.mark.multiprocess
@pytest.mark.parametrize(("column", "row"), list(_two_processes.cells()))
def test_two_processes(errors, column, row):
    error = errors[f"{column} | {row}"]
    assert error is None, error


@pytest.mark.multiprocess
@pytest.mark.parametrize(("check", "penalty"), list(_sharded_members.cells()))
def test_sharded_members(errors, check, penalty):
    error = errors[f"{check} | {penalty}"]
    assert error is None, error
