"""Permutations of hidden units: which dimensions of a module's parameters move together."""

from lit_share.alignment._build import axis_graph
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, Factors, FreeAxis, Occurrence, same_structure
from lit_share.alignment._run import check_outputs, run

__all__ = [
    "AlignError",
    "AxisGraph",
    "Factors",
    "FreeAxis",
    "Occurrence",
    "axis_graph",
    "check_outputs",
    "run",
    "same_structure",
]
