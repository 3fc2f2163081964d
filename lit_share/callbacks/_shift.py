"""`ShiftConsistency`: do predictions stay when images move?"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_share.metrics import shift_consistency


class ShiftConsistency(Callback):
    """Logs ``test/shift_consistency``, see `lit_share.metrics.shift_consistency`.

    For LightningModules whose ``forward`` maps images to class scores, and whose test batches begin with images.

    Args:
        pixels: How far images move, at least 1.

    Example:
        >>> trainer = Trainer(callbacks=[ShiftConsistency()])  # doctest: +SKIP
    """

    def __init__(self, pixels: int = 1) -> None:
        if pixels < 1:
            raise ValueError(f"pixels={pixels} must be at least 1")
        self.pixels = pixels

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, ...], *_: Any
    ) -> None:
        images = batch[0]
        consistency = shift_consistency(pl_module, images, self.pixels)
        pl_module.log("test/shift_consistency", consistency, batch_size=len(images), sync_dist=True)
