"""The matrix as a page, and what each cell of it says when it passes."""

from __future__ import annotations

from ._one_process import HERE
from ._reference import HARD, STRATEGIES
from ._two_processes import KEEPING, THERE

HEAD = """\
# Modes of training

Every cell is a test. **ok**: the weights after all steps, and the penalty that is logged (of FSDP2 in the columns
"logs"), are those of a plain loop in float64 on one process, which has the penalty in its loss or takes its textbook
proximal step; they would not be with half or twice the strength. **refused**: before training, with an error that says
why and what to do ([faults](faults.md)).

`pytest -m modes tests/modes` runs them on the CPU, two processes by gloo, and prints the matrix;
`python -m benchmarks.gpu` runs them on GPUs. This page is made by `pytest tests/modes -k page --write-docs`.

"""


def word(row, column):
    """What a cell says that passed."""
    if row == HARD:
        return "refused" if column in ("two rates", "FSDP1", "DeepSpeed", "FSDP2 each") else "ok"
    refused = column in ("LBFGS", "FSDP1", "DeepSpeed")
    refused |= row == "trace_norm" and column in ("two opt.", "two rates", "FSDP2 two opt.")
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
