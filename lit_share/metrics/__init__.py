"""How alike parameters are, as torchmetrics metrics."""

from lit_share.metrics._distance import RelativeDistance
from lit_share.metrics._sharing import ParameterSharing
from lit_share.metrics._tied import TiedFraction

__all__ = ["ParameterSharing", "RelativeDistance", "TiedFraction"]
