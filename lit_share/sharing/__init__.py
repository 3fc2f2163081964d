"""Hard sharing: making members one Parameter, or giving each its own copy again."""

from lit_share.sharing._duplicates import remove_duplicate_parameters, warn_of_lost_gradients
from lit_share.sharing._positions import check_positions
from lit_share.sharing._share import CANNOT_SHARE_NUMBERS, Init, Where, share, unshare
from lit_share.sharing._transfer import OptimizerTransfer
from lit_share.sharing._unique import unique_parameters

__all__ = [
    "CANNOT_SHARE_NUMBERS",
    "Init",
    "OptimizerTransfer",
    "Where",
    "check_positions",
    "remove_duplicate_parameters",
    "share",
    "unique_parameters",
    "unshare",
    "warn_of_lost_gradients",
]
