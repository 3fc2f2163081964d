"""A small convolutional net."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lit_share.lab.models._trunk_head import TrunkHead
from lit_share.local import LocallyConnected2d


class CNN(TrunkHead):
    """A small VGG-style net: 3×3 convolutions with ReLU, each followed by a halving of the image.

    The last feature maps are averaged over the cells of a coarse grid, so any image size goes. A grid of 1 is
    the usual global average, which learns slowly from a few hundred images.

    Args:
        input_shape: Shape of an input image, `(channels, height, width)`; without `local` only the channels matter.
        num_classes: Classes to tell apart, at least 1.
        channels: Filters of each convolution, at least one of them.
        grid: Cells along each side of that grid, at least 1.
        dropout: Probability of dropping a feature before the head, in `[0, 1]`.
        batch_norm: Whether a batch normalisation follows each ReLU.
        local: Whether positions have filters of their own, which start from the same values: the convolutions become
            `LocallyConnected2d`, and images have to be of the input shape.

    Raises:
        ValueError: If `channels` is empty.

    Example:
        >>> import torch
        >>> net = CNN((1, 28, 28), 10, channels=(8, 16), batch_norm=True)
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
        >>> [name for name, _ in net.named_parameters() if name.endswith("weight")]
        ['trunk.conv0.weight', 'trunk.norm0.weight', 'trunk.conv1.weight', 'trunk.norm1.weight', 'head.weight']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32),
        grid: int = 2,
        dropout: float = 0.0,
        batch_norm: bool = False,
        local: bool = False,
    ) -> None:
        if not channels:
            raise ValueError(
                "channels is empty: name the filters of at least one convolution, as in channels=(16,)"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        maps, *size = input_shape
        for i, filters in enumerate(channels):
            conv = nn.Conv2d(maps, filters, kernel_size=3, padding=1)
            layers[f"conv{i}"] = LocallyConnected2d.from_conv(conv, tuple(size)) if local else conv
            size = [(n + 1) // 2 for n in size]
            layers[f"relu{i}"] = nn.ReLU()
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm2d(filters)
            # Rounding up keeps a 1×1 image alive, so depth is not limited by the size of an image.
            layers[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
            maps = filters
        layers["average"] = nn.AdaptiveAvgPool2d(grid)
        layers["flatten"] = nn.Flatten()
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        super().__init__(nn.Sequential(layers), nn.Linear(maps * grid**2, num_classes))
