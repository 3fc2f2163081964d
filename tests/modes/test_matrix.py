"""Penalties and hard sharing train as they ought to, whatever the mode of training.

At the end of a run a table is printed. In each cell the weights after all steps, and the penalty
that is logged, are those of a plain loop in float64 that has the penalty in its loss, or takes its
textbook proximal step; and they would not be with half or twice the strength.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from .._two_processes import errors_of
from . import _one_process, _sharded_members, _two_processes
from ._document import page, word
from ._reference import STRATEGIES

pytestmark = pytest.mark.modes


@pytest.fixture(autouse=True)
def _cell(request, record_property):
    """What the table needs to know."""
    names = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "row" in names:
        record_property(
            "mode", (names["column"], names["row"], word(names["row"], names["column"]))
        )


def mark(column):
    if column == "DDP spawn":
        return [pytest.mark.multiprocess, pytest.mark.slow]
    return []


@pytest.mark.usefixtures("warm_spawn")
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch warns of its own code
@pytest.mark.parametrize(
    ("column", "row"),
    [
        pytest.param(column, row, marks=mark(column))
        for column, row in product(_one_process.HERE, STRATEGIES)
    ],
)
def test_one_process(column, row, monkeypatch):
    monkeypatch.syspath_prepend(
        Path(__file__).parents[2]
    )  # where spawned processes find these modules
    _one_process.HERE[column](row)


@pytest.fixture(scope="session")
def errors(tmp_path_factory):
    """What failed in two processes."""
    return errors_of(
        "tests.modes._two_processes", _two_processes.table(), tmp_path_factory.getbasetemp()
    )


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("column", "row"), list(_two_processes.cells()))
def test_two_processes(errors, column, row):
    error = errors[f"{column} | {row}"]
    assert error is None, error


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("check", "penalty"), list(_sharded_members.cells()))
def test_sharded_members(errors, check, penalty):
    error = errors[f"{check} | {penalty}"]
    assert error is None, error


def test_the_page_is_that_of_the_matrix(up_to_date):
    up_to_date("modes.md", page())
