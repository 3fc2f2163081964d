"""Several LightningModules, trained together without changes to them."""

from lit_share.paired._data import PairedData
from lit_share.paired._hyperparameters import globals_of_checkpoint, readable_hyperparameters
from lit_share.paired._paired import Paired

__all__ = ["Paired", "PairedData", "globals_of_checkpoint", "readable_hyperparameters"]
