"""Lightning callbacks: penalties on ties, hard sharing, and a monitor of both."""

from lit_share.callbacks._monitor import SharingMonitor
from lit_share.callbacks._regularize import Regularize
from lit_share.callbacks._schedule import Ramp
from lit_share.callbacks._share import Share
from lit_share.callbacks._shift import ShiftConsistency

__all__ = ["Ramp", "Regularize", "Share", "SharingMonitor", "ShiftConsistency"]
