"""How often a prediction stays when its image moves: the metric, and a callback that logs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

__all__ = ["ShiftConsistency", "shift_consistency"]


class ShiftConsistency(Callback):
    """Logs ``test/shift_consistency``, see `shift_consistency`.

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
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, ...],
        *_: Any,
    ) -> None:
        images = batch[0]
        consistency = shift_consistency(pl_module, images, self.pixels)
        pl_module.log("test/shift_consistency", consistency, batch_size=len(images), sync_dist=True)


@torch.no_grad()
def shift_consistency(
    classify: Callable[[Tensor], Tensor], images: Tensor, pixels: int = 1
) -> Tensor:
    r"""The fraction of predictions that stay when an image moves by a pixel, averaged over the four directions.

    .. math:: \frac{1}{4 n} \sum_{i=1}^{n} \sum_{s} [\hat y(x_i) = \hat y(s(x_i))]

    with the predicted class :math:`\hat y` and the moves :math:`s` up, down, left and right; what comes into view is 0.

    Args:
        classify: Maps images to class scores of shape ``(images, classes)``.
        images: Shape ``(images, channels, height, width)``.
        pixels: How far images move, at least 1.

    Returns:
        Float scalar in [0, 1].

    Raises:
        ValueError: If images would move out of sight.

    Example:
        >>> images = torch.zeros(2, 1, 3, 3)
        >>> images[0, 0, 1, 1] = 1.0  # one class has a bright centre
        >>> shift_consistency(lambda x: torch.stack([x[:, 0, 1, 1], torch.full((len(x),), 0.5)], dim=1), images)
        tensor(0.5000)

    Source:
        Zhang, *Making convolutional networks shift-invariant again*, ICML 2019, Section 4.1, after its "consistency".
    """
    if not 1 <= pixels <= min(images.shape[-2:]):
        raise ValueError(
            f"pixels={pixels} must be at least 1 and at most the {tuple(images.shape[-2:])} of an image"
        )
    predicted = classify(images).argmax(dim=1)
    moves = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)]
    same = [
        classify(_moved(images, down, right)).argmax(dim=1) == predicted for down, right in moves
    ]
    return torch.stack(same).float().mean()


def _moved(images: Tensor, down: int, right: int) -> Tensor:
    moved = images.roll((down, right), dims=(-2, -1))
    for dim, distance in ((-2, down), (-1, right)):
        if distance:
            moved.narrow(
                dim, 0 if distance > 0 else moved.shape[dim] + distance, abs(distance)
            ).zero_()
    return moved
