"""Figures: numbers in, Plotly figures out."""

from lit_share.plots._curves import Curve, curves
from lit_share.plots._front import Point, pareto_front, score_against_size
from lit_share.plots._heatmap import distance_heatmap
from lit_share.plots._intervals import Interval, intervals
from lit_share.plots._palette import OKABE_ITO, Style, styles
from lit_share.plots._tied import tied_heatmap

__all__ = [
    "OKABE_ITO",
    "Curve",
    "Interval",
    "Point",
    "Style",
    "curves",
    "distance_heatmap",
    "intervals",
    "pareto_front",
    "score_against_size",
    "styles",
    "tied_heatmap",
]
