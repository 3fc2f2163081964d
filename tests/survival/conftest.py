"""Prints the matrix at the end of a run."""

import pytest

from ._modules import CASES, PLACES

# Reports come by outcome, and not in the order of the tests.
ROWS = [f"{case}, {place}" for case in CASES for place in PLACES]
COLUMNS = [
    *("fit", "resume", "validate", "deepcopy", "pickle", "bf16", "compile parts", "compile module"),
    *("DDP", "DDP unused", "DDP static", "FSDP2", "FSDP2 resume", "FSDP2 shards", "FSDP2 meta"),
]
WORDS = {"passed": "ok", "failed": "FAIL", "error": "FAIL"}


@pytest.fixture(autouse=True)
def _lightning(own_folder, quiet):
    """For all tests here."""


def pytest_terminal_summary(terminalreporter):
    cells: dict[str, dict[str, str]] = {}
    for outcome, word in WORDS.items():
        for report in terminalreporter.stats.get(outcome, []):
            cell = dict(getattr(report, "user_properties", ())).get("cell")
            if cell is not None:
                row, column, when_passed = cell
                cells.setdefault(row, {})[column] = when_passed if outcome == "passed" else word
    if not cells:
        return
    columns = [column for column in COLUMNS if any(column in row for row in cells.values())]
    heads = [[*([""] * (2 - len(column.split()))), *column.split()] for column in columns]
    widths = [max(map(len, [*head, "refused"])) for head in heads]
    first = max(map(len, cells))
    terminalreporter.section("hard sharing survives")
    for line in range(2):
        terminalreporter.line(
            "  ".join(
                ["".ljust(first), *(h[line].ljust(w) for h, w in zip(heads, widths, strict=True))]
            )
        )
    for row, words in sorted(cells.items(), key=lambda item: ROWS.index(item[0])):
        listed = (words.get(c, "-").ljust(w) for c, w in zip(columns, widths, strict=True))
        terminalreporter.line("  ".join([row.ljust(first), *listed]))
