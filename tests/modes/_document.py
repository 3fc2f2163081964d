"""The matrix as a page, and what each cell of it says when it passes."""

from __future__ import annotations

from ._one_process import HERE
from ._reference import HARD, STRATEGIES
from ._two_processes import KEEPING, THERE

HEAD = """\
# Modes of training

Every cell is tested. **ok**: the weights after all steps, and the logged penalty (for FSDP2 in the
rows "logs"), equal those of a plain loop in float64 on one process, which has the penalty in its
loss or takes its textbook proximal step. With half or twice the strength the test would fail.
**refused**: an error before training says why, and what to do instead (see [errors](faults.md)).

`pytest -m modes tests/modes` runs the tests on the CPU, with two processes (gloo), and prints the
matrix. `python -m benchmarks.gpu` runs them on GPUs. `pytest tests/modes -k page --write-docs`
generates this page.

"""


def word(row, column):
    """What a cell says that passed."""
    if row == HARD:
        return "refused" if column in ("two rates", "FSDP1", "DeepSpeed", "FSDP2 each") else "ok"
    refused = column in ("LBFGS", "FSDP1", "DeepSpeed")
    refused |= row == "trace_norm" and column in ("two opt.", "two rates", "FSDP2 two opt.")
    refused |= row == "value_tie" and column.startswith("FSDP2")
    refused |= row not in KEEPING and column.startswith("FSDP2 zeros")
    return "refused" if refused else "ok"


def page():
    lines = [
        f"| | {' | '.join(f'`{row}`' for row in STRATEGIES)} |",
        f"|{'---|' * (len(STRATEGIES) + 1)}",
    ]
    for column in (*HERE, *THERE):
        lines.append(f"| {column} | {' | '.join(word(row, column) for row in STRATEGIES)} |")
    return HEAD + "\n".join(lines) + "\n"
