"""Permutations of hidden units: which dimensions of a module's parameters move together."""

from lit_share.aliases import Inputs, evaluating
from lit_share.alignment._align import By, Reference, align, check_dense, member_names
from lit_share.alignment._build import axis_graph
from lit_share.alignment._drop import DropReport, compact, drop_units
from lit_share.alignment._errors import AlignError
from lit_share.alignment._graph import AxisGraph, Factors, FreeAxis, Occurrence, same_structure
from lit_share.alignment._match import match_activations, match_weights
from lit_share.alignment._repair import repair
from lit_share.alignment._report import AlignedAxis, AlignReport
from lit_share.alignment._run import check_outputs, run

__all__ = [
    "AlignError",
    "AlignReport",
    "AlignedAxis",
    "AxisGraph",
    "By",
    "DropReport",
    "Factors",
    "FreeAxis",
    "Inputs",
    "Occurrence",
    "Reference",
    "align",
    "axis_graph",
    "check_dense",
    "check_outputs",
    "compact",
    "drop_units",
    "evaluating",
    "match_activations",
    "match_weights",
    "member_names",
    "repair",
    "run",
    "same_structure",
]
