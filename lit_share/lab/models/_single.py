"""A classifier for the data modules for one model."""

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
    """Build a classifier for the input shape and the number of classes of a data module.

    Args:
        data: Has an ``input_shape`` and ``num_classes``.
        net: Builds a network from ``input_shape`` and ``num_classes``.
        classifier: Builds a LightningModule from ``net`` and ``num_classes``.
    """
    built = net(input_shape=data.input_shape, num_classes=data.num_classes)
    return classifier(net=built, num_classes=data.num_classes)
