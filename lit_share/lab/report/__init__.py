"""Compare finished runs, by `lit-share compare DIR` or at the end of a Hydra multirun."""

from lit_share.lab.report._advice import Advice, advise
from lit_share.lab.report._compare import compare
from lit_share.lab.report._comparison import Comparison, Row, default_metric
from lit_share.lab.report._estimate import Estimate, estimate
from lit_share.lab.report._hydra import CompareRuns
from lit_share.lab.report._page import page
from lit_share.lab.report._power import seeds_needed
from lit_share.lab.report._print import print_comparison
from lit_share.lab.report._settings import not_to_be_tuned
from lit_share.lab.report._write import as_json, write_report

__all__ = [
    "Advice",
    "CompareRuns",
    "Comparison",
    "Estimate",
    "Row",
    "advise",
    "as_json",
    "compare",
    "default_metric",
    "estimate",
    "not_to_be_tuned",
    "page",
    "print_comparison",
    "seeds_needed",
    "write_report",
]
