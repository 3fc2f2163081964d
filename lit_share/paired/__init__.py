"""Several LightningModules, trained together without changes to them."""

from lit_share.paired._data import PairedData
from lit_share.paired._hyperparameters import readable_hyperparameters
from lit_share.paired._paired import Paired

__all__ = ["Paired", "PairedData", "readable_hyperparameters"]
