"""Tying the parameters of `torch.nn` modules: which (`Ties`), softly (penalties), and as one Parameter (`share`)."""

from lit_share.sharing._error import TieError
from lit_share.sharing._hard import share, unshare
from lit_share.sharing._loops import add_penalty_gradient, apply_prox, starting_values
from lit_share.sharing._plan import Plan
from lit_share.sharing._record import verify_shared
from lit_share.sharing._stats import (
    SharingStats,
    count_tied,
    overall_distance,
    relative_distance,
    sharing_stats,
    squared_distance,
)
from lit_share.sharing._tie import Member, Tie
from lit_share.sharing._ties import Ties
from lit_share.sharing._unique import unique_parameters

__all__ = [
    "Member",
    "Plan",
    "SharingStats",
    "Tie",
    "TieError",
    "Ties",
    "add_penalty_gradient",
    "apply_prox",
    "count_tied",
    "overall_distance",
    "relative_distance",
    "share",
    "sharing_stats",
    "squared_distance",
    "starting_values",
    "unique_parameters",
    "unshare",
    "verify_shared",
]
