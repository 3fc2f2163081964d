"""Lightning callbacks: penalties on ties, hard sharing, and a monitor of both."""

from lit_share.callbacks._heatmap import distance_heatmap
from lit_share.callbacks._monitor import SharingMonitor
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._schedule import Ramp
from lit_share.callbacks._share import Share

__all__ = ["Ramp", "Regularize", "Share", "SharingMonitor", "distance_heatmap"]
