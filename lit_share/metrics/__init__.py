"""How alike parameters are and how stable selections are, as torchmetrics metrics.

The distance of members as a number, without a metric, is `lit_share.relative_distance`; that over several ties is
`lit_share.overall_distance`.
"""

from lit_share.metrics._distance import RelativeDistance
from lit_share.metrics._sharing import ParameterSharing
from lit_share.metrics._stability import SelectionStability, index_change, jaccard
from lit_share.metrics._tied import TiedFraction

__all__ = [
    "ParameterSharing",
    "RelativeDistance",
    "SelectionStability",
    "TiedFraction",
    "index_change",
    "jaccard",
]
