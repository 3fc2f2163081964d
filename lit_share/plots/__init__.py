"""Figures: numbers in, Plotly figures out."""

from lit_share.plots._heatmap import distance_heatmap

__all__ = ["distance_heatmap"]
