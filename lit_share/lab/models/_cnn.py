"""A small convolutional network."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lit_share.lab.models._trunk_head import TrunkHead
from lit_share.local import LocallyConnected2d


class CNN(TrunkHead):
    """A small VGG-style network: 3×3 convolutions with ReLU, each followed by 2×2 max pooling.

    The last feature maps are average-pooled to a fixed grid, so that images can have any size. A
    grid of 1 is global average pooling, which learns slowly from a few hundred images.

    Args:
        input_shape: `(channels, height, width)` of an image; height and width matter only if
            `local`.
        num_classes: Number of classes, or of other outputs, at least 1.
        channels: Filters of each convolution, at least one convolution.
        grid: Height and width of the pooled feature maps, at least 1.
        dropout: Probability of dropping a feature before the head, in `[0, 1]`.
        batch_norm: Whether a batch normalisation follows each ReLU.
        local: Whether to use `LocallyConnected2d`, which has a filter for each position, instead of
            convolutions. All positions start from the same filters; images must have the input
            shape.

    Raises:
        ValueError: If `channels` is empty.

    Example:
        >>> import torch
        >>> net = CNN((1, 28, 28), 10, channels=(8, 16), batch_norm=True)
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
        >>> [name for name, _ in net.named_parameters() if name.endswith("weight")]
        ['trunk.conv0.weight', 'trunk.norm0.weight',
         'trunk.conv1.weight', 'trunk.norm1.weight', 'head.weight']
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
                "channels is empty: name the filters of at least one convolution, "
                "as in channels=(16,)"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        maps, *size = input_shape
        for i, filters in enumerate(channels):
            conv = nn.Conv2d(maps, filters, kernel_size=3, padding=1)
            layers[f"conv{i}"] = conv
            if local:
                layers[f"conv{i}"] = LocallyConnected2d.from_conv(conv, tuple(size))
            # `LocallyConnected2d` needs the image size; the pooling below halves it, rounding up.
            size = [(n + 1) // 2 for n in size]
            layers[f"relu{i}"] = nn.ReLU()
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm2d(filters)
            # Rounding up keeps a 1×1 image at 1×1, so that images do not limit the depth.
            layers[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
            maps = filters
        layers["average"] = nn.AdaptiveAvgPool2d(grid)
        layers["flatten"] = nn.Flatten()
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        super().__init__(nn.Sequential(layers), nn.Linear(maps * grid**2, num_classes))
