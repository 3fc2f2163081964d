"""Comparing finished runs: `python -m lit_share.report DIR`, or by itself at the end of a Hydra multirun."""

from lit_share.report._compare import compare
from lit_share.report._comparison import Comparison, Row
from lit_share.report._estimate import Estimate, estimate
from lit_share.report._hydra import CompareRuns
from lit_share.report._results import Result, read_results, unfinished_runs

__all__ = [
    "CompareRuns",
    "Comparison",
    "Estimate",
    "Result",
    "Row",
    "compare",
    "estimate",
    "read_results",
    "unfinished_runs",
]
