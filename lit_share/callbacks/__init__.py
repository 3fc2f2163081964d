"""Lightning callbacks: penalties on ties, sharing, codebooks, alignment, random states."""

from lit_share.callbacks._align import Align
from lit_share.callbacks._cluster_heatmap import cluster_heatmap
from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._keep_random_state import KeepRandomState
from lit_share.callbacks._monitor import SharingMonitor
from lit_share.callbacks._path_walk import PATH_FILE, Knot, PathWalk
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share
from lit_share.callbacks._tie_rows import TieRows

__all__ = [
    "PATH_FILE",
    "Align",
    "KeepRandomState",
    "Knot",
    "PathWalk",
    "Regularize",
    "Share",
    "SharingMonitor",
    "TieRows",
    "cluster_heatmap",
    "distance_heatmap",
]
