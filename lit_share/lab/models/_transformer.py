"""A small transformer that reads an image row by row."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_share.lab.models._trunk_head import TrunkHead


class RowTokens(nn.Module):
    """Turns images into sequences, one token for each image row.

    Example:
        >>> RowTokens()(torch.zeros(5, 3, 8, 6)).shape
        torch.Size([5, 8, 18])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Cut images into rows.

        Args:
            x: Images, shape `(batch, channels, height, width)`, or sequences, `(batch, tokens, features)`.

        Returns:
            Sequences, shape `(batch, height, channels * width)`; sequences come back as they are.
        """
        return x.transpose(1, 2).flatten(2) if x.ndim == 4 else x


class Position(nn.Module):
    """Adds a learned vector to each place of a sequence.

    Args:
        num_tokens: Length of every sequence.
        width: Features of a token.

    Example:
        >>> Position(8, 32)(torch.zeros(5, 8, 32)).shape
        torch.Size([5, 8, 32])
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors.

        Args:
            x: Sequences, shape `(batch, num_tokens, width)`.

        Returns:
            Sequences of the same shape.
        """
        return x + self.weight


class MeanTokens(nn.Module):
    """Averages a sequence over its tokens.

    Example:
        >>> MeanTokens()(torch.ones(5, 8, 32)).shape
        torch.Size([5, 32])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average the tokens.

        Args:
            x: Sequences, shape `(batch, tokens, width)`.

        Returns:
            One vector for each sequence, shape `(batch, width)`.
        """
        return x.mean(dim=1)


class TransformerClassifier(TrunkHead):
    """A small pre-norm transformer encoder with learned positions and mean pooling.

    Args:
        input_shape: Shape of an input: `(channels, height, width)` of an image, whose rows are the tokens, or
            `(tokens, features)` of a sequence.
        num_classes: Classes to tell apart, at least 1.
        width: Features inside the encoder, a multiple of `heads`.
        heads: Attention heads of each layer.
        depth: Encoder layers, at least 1.
        dropout: Dropout probability inside the encoder, in `[0, 1]`.
        same_init: Whether all layers start from the same values, so that tied layers can stay alike.

    Raises:
        ValueError: If `width` is not a multiple of `heads`.

    Example:
        >>> net = TransformerClassifier((1, 8, 8), num_classes=10)
        >>> net(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        >>> [name for name, _ in net.named_parameters() if "norm" in name and "weight" in name]
        ['trunk.encoder.layers.0.norm1.weight', 'trunk.encoder.layers.0.norm2.weight',
         'trunk.encoder.layers.1.norm1.weight', 'trunk.encoder.layers.1.norm2.weight',
         'trunk.encoder.norm.weight']
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 32,
        heads: int = 4,
        depth: int = 2,
        dropout: float = 0.0,
        same_init: bool = False,
    ) -> None:
        if width % heads:
            raise ValueError(
                f"width={width} is not a multiple of heads={heads}: every head needs an equal share"
            )

        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(
                width,
                heads,
                dim_feedforward=4 * width,
                dropout=dropout,
                batch_first=True,
                norm_first=True,
            )

        num_tokens, token_features = RowTokens()(torch.empty(1, *input_shape, device="meta")).shape[
            1:
        ]
        # Nested tensors only pay off for padded sequences, and pre-norm layers warn about them.
        encoder = nn.TransformerEncoder(
            layer(), depth, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        if not same_init:
            # PyTorch copies one layer `depth` times, initial values and all. Layers that begin equal would make
            # any measure of sharing between layers look good before training.
            encoder.layers = nn.ModuleList(layer() for _ in range(depth))
        trunk = OrderedDict[str, nn.Module](
            tokens=RowTokens(),
            embed=nn.Linear(token_features, width),
            position=Position(num_tokens, width),
            encoder=encoder,
            mean=MeanTokens(),
        )
        super().__init__(nn.Sequential(trunk), nn.Linear(width, num_classes))
