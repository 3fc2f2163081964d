"""The fraction of predictions that are unchanged when images move: a metric and its callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lit_share.lightnings import Callback

__all__ = ["ShiftConsistency", "shift_consistency"]


class ShiftConsistency(Callback):
    """Log `shift_consistency` of the test images as ``test/shift_consistency``.

    The module's ``forward`` must map images to class scores, and images must be the first entry
    of a test batch.

    Args:
        pixels: Distance by which images move, at least 1.

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
    r"""Return the fraction of predictions that are unchanged when images move by some pixels.

    .. math:: \frac{1}{4 n} \sum_{i=1}^{n} \sum_{s} [\hat y(x_i) = \hat y(s(x_i))]

    with the predicted class :math:`\hat y` and the shifts :math:`s` up, down, left and right,
    padded with zeros.

    Args:
        classify: Maps images to class scores of shape ``(images, classes)``.
        images: Shape ``(images, channels, height, width)``.
        pixels: Distance by which images move, at least 1.

    Returns:
        Float scalar in [0, 1].

    Raises:
        ValueError: If ``pixels`` is less than 1 or larger than an image.

    Example:
        >>> images = torch.zeros(2, 1, 3, 3)
        >>> images[0, 0, 1, 1] = 1.0
        >>> def classify(x):  # class 0 has a bright centre
        ...     return torch.stack([x[:, 0, 1, 1], torch.full((len(x),), 0.5)], dim=1)
        >>> shift_consistency(classify, images)
        tensor(0.5000)

    Source:
        Zhang, *Making convolutional networks shift-invariant again*, ICML 2019, Section 4.1, after
        its "consistency".
    """
    if not 1 <= pixels <= min(images.shape[-2:]):
        size = tuple(images.shape[-2:])
        raise ValueError(f"pixels={pixels} must be at least 1 and at most the {size} of an image")
    predicted = classify(images).argmax(dim=1)
    unchanged = []
    # The paper compares two random shifts; four fixed ones give the same number in every run.
    for down, right in ((pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)):
        unchanged.append(classify(_shift(images, down, right)).argmax(dim=1) == predicted)
    return torch.stack(unchanged).float().mean()


def _shift(images: Tensor, down: int, right: int) -> Tensor:
    shifted = images.roll((down, right), dims=(-2, -1))
    # `roll` is cyclic: the pixels that left on one side and came in on the other become zeros.
    for dim, distance in ((-2, down), (-1, right)):
        if distance > 0:
            shifted.narrow(dim, 0, distance).zero_()
        elif distance < 0:
            shifted.narrow(dim, shifted.shape[dim] + distance, -distance).zero_()
    return shifted
