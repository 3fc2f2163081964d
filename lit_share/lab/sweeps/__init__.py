"""Sweeps: the folders of their cells, what runs in a cell, and the comparison as a W&B run.

Hydra imports this package whenever it starts, so nothing heavy may be imported here.
"""

from lit_share.lab.sweeps._cells import (
    Cell,
    checkpoint_to_resume,
    fingerprint,
    group_of,
    settle,
    status,
)
from lit_share.lab.sweeps._contained import CellFailed, Contained
from lit_share.lab.sweeps._progress import Progress
from lit_share.lab.sweeps._track import TrackComparison

__all__ = [
    "Cell",
    "CellFailed",
    "Contained",
    "Progress",
    "TrackComparison",
    "checkpoint_to_resume",
    "fingerprint",
    "group_of",
    "settle",
    "status",
]
