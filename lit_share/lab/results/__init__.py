"""The result of a run: one class for what is written to `result.json` and what is read from it."""

from lit_share.lab.results._json import write_json
from lit_share.lab.results._measure import Measured, measure
from lit_share.lab.results._own import write_result
from lit_share.lab.results._read import read_results, unfinished_runs
from lit_share.lab.results._result import RESULT_FILE, Result

__all__ = [
    "RESULT_FILE",
    "Measured",
    "Result",
    "measure",
    "read_results",
    "unfinished_runs",
    "write_json",
    "write_result",
]
