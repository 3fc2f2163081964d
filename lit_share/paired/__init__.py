"""Several unchanged LightningModules, trained side by side in one Trainer."""

from lit_share.paired._paired import Paired

__all__ = ["Paired"]
