"""A small transformer whose tokens are the rows of an image."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_share.lab.models._trunk_head import TrunkHead


class RowTokens(nn.Module):
    """Reshape images to sequences with a token for each image row.

    Example:
        >>> RowTokens()(torch.zeros(5, 3, 8, 6)).shape
        torch.Size([5, 8, 18])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Reshape images and return sequences unchanged.

        Args:
            x: Images, shape `(batch, channels, height, width)`, or sequences, shape
                `(batch, tokens, features)`.

        Returns:
            Sequences; of images, shape `(batch, height, channels * width)`.
        """
        if x.ndim == 4:
            return x.transpose(1, 2).flatten(2)
        return x


class Position(nn.Module):
    """Add a learned position embedding to sequences.

    Args:
        num_tokens: Length of the sequences.
        width: Features of a token.

    Example:
        >>> Position(8, 32)(torch.zeros(5, 8, 32)).shape
        torch.Size([5, 8, 32])
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tokens, width))
        # BERT initialises its embeddings with this standard deviation, too.
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the embedding to sequences of shape `(batch, num_tokens, width)`."""
        return x + self.weight


class MeanTokens(nn.Module):
    """Average sequences over their tokens.

    Example:
        >>> MeanTokens()(torch.ones(5, 8, 32)).shape
        torch.Size([5, 32])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Reduce sequences of shape `(batch, tokens, width)` to `(batch, width)`."""
        return x.mean(dim=1)


class TransformerClassifier(TrunkHead):
    """A small pre-norm transformer encoder with learned positions and mean pooling.

    Args:
        input_shape: `(channels, height, width)` for images, whose rows are the tokens, or
            `(tokens, features)` for sequences.
        num_classes: Number of classes, at least 1.
        width: Features of a token in the encoder, a multiple of `heads`.
        heads: Attention heads of each layer.
        depth: Encoder layers, at least 1.
        dropout: Dropout probability inside the encoder, in `[0, 1]`.
        same_init: Whether all layers start from the same values, as tied layers should.

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
                f"width={width} is not a multiple of heads={heads}: every head has width/heads "
                "features"
            )

        # Layers with pre-norm need no warm-up of the learning rate.
        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(
                width,
                heads,
                dim_feedforward=4 * width,
                dropout=dropout,
                batch_first=True,
                norm_first=True,
            )

        # A meta tensor has a shape and no memory.
        example = torch.empty(1, *input_shape, device="meta")
        _, num_tokens, token_features = RowTokens()(example).shape
        # Nested tensors only speed up padded sequences, and PyTorch warns about them with pre-norm.
        encoder = nn.TransformerEncoder(
            layer(), depth, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        if not same_init:
            # PyTorch copies one layer `depth` times, with its initial values. Layers that start
            # equal would have a distance of 0 before training.
            encoder.layers = nn.ModuleList(layer() for _ in range(depth))
        trunk = OrderedDict[str, nn.Module](
            tokens=RowTokens(),
            embed=nn.Linear(token_features, width),
            position=Position(num_tokens, width),
            encoder=encoder,
            mean=MeanTokens(),
        )
        super().__init__(nn.Sequential(trunk), nn.Linear(width, num_classes))
