"""Lightning callbacks: penalties on ties, hard sharing, and a monitor of both."""

from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._monitor import SharingMonitor
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._share import Share

__all__ = ["Regularize", "Share", "SharingMonitor", "distance_heatmap"]
