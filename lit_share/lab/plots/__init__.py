"""Functions that draw Plotly figures from numbers."""

from lit_share.lab.plots._cluster_path import cluster_path
from lit_share.lab.plots._clusters import cluster_map
from lit_share.lab.plots._curves import Curve, curves
from lit_share.lab.plots._front import Point, pareto_front, score_against_size
from lit_share.lab.plots._intervals import Interval, intervals
from lit_share.lab.plots._knot_path import KnotPoint, knot_path
from lit_share.lab.plots._members import member_clusters
from lit_share.lab.plots._palette import OKABE_ITO, Style, styles
from lit_share.lab.plots._positions import position_filters
from lit_share.lab.plots._strength import StrengthPath, strength_path
from lit_share.lab.plots._tied import tied_heatmap

__all__ = [
    "OKABE_ITO",
    "Curve",
    "Interval",
    "KnotPoint",
    "Point",
    "StrengthPath",
    "Style",
    "cluster_map",
    "cluster_path",
    "curves",
    "intervals",
    "knot_path",
    "member_clusters",
    "pareto_front",
    "position_filters",
    "score_against_size",
    "strength_path",
    "styles",
    "tied_heatmap",
]
