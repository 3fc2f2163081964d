"""Distances between members, counts of shared numbers, and the stability of selections."""

from lit_share.metrics._counts import (
    SharingStats,
    compare_found,
    compare_ties,
    count_numbers,
    count_tied,
    overall_distance,
    relative_distance,
    sharing_stats,
)
from lit_share.metrics._distance import RelativeDistance
from lit_share.metrics._measure import measure_sharing, metric_name
from lit_share.metrics._sharing import ParameterSharing
from lit_share.metrics._stability import SelectionStability, index_change, jaccard
from lit_share.metrics._tied import TiedFraction

__all__ = [
    "ParameterSharing",
    "RelativeDistance",
    "SelectionStability",
    "SharingStats",
    "TiedFraction",
    "compare_found",
    "compare_ties",
    "count_numbers",
    "count_tied",
    "index_change",
    "jaccard",
    "measure_sharing",
    "metric_name",
    "overall_distance",
    "relative_distance",
    "sharing_stats",
]
