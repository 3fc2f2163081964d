"""One classifier that fits its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning import LightningModule
from torch import nn

if TYPE_CHECKING:
    from lit_share.lab.data import PlacedImages


def single_classifier(
    data: PlacedImages, net: Callable[..., nn.Module], classifier: Callable[..., LightningModule]
) -> LightningModule:
    """A classifier, made to fit the data.

    Args:
        data: Knows the shape of inputs and the number of classes.
        net: Makes a network from ``input_shape`` and ``num_classes``.
        classifier: Makes a LightningModule from ``net`` and ``num_classes``.

    Returns:
        The classifier.
    """
    made = net(input_shape=data.input_shape, num_classes=data.num_classes)
    return classifier(net=made, num_classes=data.num_classes)
