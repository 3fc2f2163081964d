"""Declares the marker, and prints the matrix at the end of a run."""

import pytest

from ._one_process import HERE
from ._reference import STRATEGIES
from ._two_processes import THERE

WORDS = {"passed": "", "failed": "FAIL", "error": "FAIL"}


def pytest_configure(config):
    config.addinivalue_line("markers", "modes: shared parameters, in every mode of training")


@pytest.fixture(autouse=True)
def _lightning(own_folder, quiet):
    """For all tests here."""


def pytest_terminal_summary(terminalreporter):
    cells: dict[str, dict[str, str]] = {}
    for outcome, word in WORDS.items():
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", ()))
            if "mode" in properties:
                column, row, when_passed = properties["mode"]
                cells.setdefault(column, {})[row] = word or when_passed
    if not cells:
        return
    rows = [row for row in STRATEGIES if any(row in words for words in cells.values())]
    first, widths = max(map(len, cells)), [max(len(row), len("refused")) for row in rows]
    terminalreporter.section("strategies × modes of training")
    terminalreporter.line(
        "  ".join(["".ljust(first), *(r.ljust(w) for r, w in zip(rows, widths, strict=True))])
    )
    for column in [c for c in (*HERE, *THERE) if c in cells]:
        words = (cells[column].get(r, "-").ljust(w) for r, w in zip(rows, widths, strict=True))
        terminalreporter.line("  ".join([column.ljust(first), *words]).rstrip())
