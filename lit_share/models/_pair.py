"""A pair of classifiers that fit paired data."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

from lightning import LightningModule
from torch import nn

from lit_share.paired import Paired

if TYPE_CHECKING:
    from lit_share.data._pair import PairData


def paired_classifiers(
    data: PairData,
    net: Callable[..., nn.Module],
    classifier: Callable[..., LightningModule],
    same_init: bool = True,
) -> Paired:
    """A pair of classifiers of one architecture, made to fit the data.

    Args:
        data: Knows the members' names, the shape of their inputs and the number of their classes.
        net: Makes a network from ``input_shape`` and ``num_classes``.
        classifier: Makes a LightningModule from ``net`` and ``num_classes``.
        same_init: Whether parameters of the same name and shape start from the same values.

    Returns:
        The members under one roof.
    """
    members: dict[str, LightningModule] = {}
    for name, num_classes in data.num_classes.items():
        members[name] = classifier(
            net=net(input_shape=data.input_shape, num_classes=num_classes), num_classes=num_classes
        )
    if same_init:
        first, *others = members.values()
        initial = deepcopy(first.state_dict())
        for other in others:
            own = other.state_dict()
            fitting = {name: value for name, value in initial.items() if name in own and own[name].shape == value.shape}
            other.load_state_dict(own | fitting)
    return Paired(**members)
