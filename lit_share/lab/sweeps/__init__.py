"""Sweeps: their cells and folders, what runs in a cell, and the comparison as a W&B run.

Hydra imports this package whenever it starts, so nothing heavy may be imported here.
"""

from lit_share.lab.sweeps._alone import alone_in, alone_in_run
from lit_share.lab.sweeps._cells import (
    CHECKPOINTS,
    Cell,
    checkpoint_to_resume,
    fingerprint,
    group_of,
    known_cells,
    settle,
    states,
    status,
)
from lit_share.lab.sweeps._composer import Composer
from lit_share.lab.sweeps._contained import CellFailed, Contained
from lit_share.lab.sweeps._end_with import EndWith
from lit_share.lab.sweeps._plan import SweepPlan, described
from lit_share.lab.sweeps._progress import Progress
from lit_share.lab.sweeps._track import TrackComparison

__all__ = [
    "CHECKPOINTS",
    "Cell",
    "CellFailed",
    "Composer",
    "Contained",
    "EndWith",
    "Progress",
    "SweepPlan",
    "TrackComparison",
    "alone_in",
    "alone_in_run",
    "checkpoint_to_resume",
    "described",
    "fingerprint",
    "group_of",
    "known_cells",
    "settle",
    "states",
    "status",
]
