"""A multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from lit_share.lab.models._trunk_head import TrunkHead


class MLP(TrunkHead):
    """A multilayer perceptron: linear layers with ReLU, batch normalisation and dropout.

    `MLP([784], 10, hidden=(300,), batch_norm=True)` is the 784-300-10 network that Zhang et al.,
    *Learning to share: simultaneous parameter tying and sparsification in deep learning*, ICLR
    2018, train on MNIST.

    Args:
        input_shape: Shape of one input, which is flattened.
        num_classes: Number of classes, or of other outputs, at least 1.
        hidden: Widths of the hidden layers; `()` for a linear model.
        dropout: Probability of dropping a hidden unit, in `[0, 1]`.
        batch_norm: Whether a batch normalisation follows each ReLU.

    Example:
        >>> import torch
        >>> net = MLP((1, 8, 8), 10, hidden=(32,), batch_norm=True)
        >>> net(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        >>> [name for name, _ in net.named_parameters()]
        ['trunk.linear0.weight', 'trunk.linear0.bias', 'trunk.norm0.weight', 'trunk.norm0.bias',
         'head.weight', 'head.bias']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        features = prod(input_shape)
        for i, width in enumerate(hidden):
            layers[f"linear{i}"] = nn.Linear(features, width)
            layers[f"relu{i}"] = nn.ReLU()
            # The optional layers have names, not indices: patterns match with and without them.
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm1d(width)
            if dropout:
                layers[f"dropout{i}"] = nn.Dropout(dropout)
            features = width
        super().__init__(nn.Sequential(layers), nn.Linear(features, num_classes))
