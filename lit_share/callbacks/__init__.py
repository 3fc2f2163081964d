"""Lightning callbacks: alignment, penalties on ties, hard sharing, and a monitor of these."""

from lit_share.callbacks._align import Align
from lit_share.callbacks._cluster_heatmap import cluster_heatmap
from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._monitor import SharingMonitor
from lit_share.callbacks._path_walk import PATH_FILE, Knot, PathWalk
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share

__all__ = [
    "PATH_FILE",
    "Align",
    "Knot",
    "PathWalk",
    "Regularize",
    "Share",
    "SharingMonitor",
    "cluster_heatmap",
    "distance_heatmap",
]
