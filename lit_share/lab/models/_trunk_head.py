"""The shape that every net of this package has: a trunk of features and a linear head."""

from torch import Tensor, nn


class TrunkHead(nn.Module):
    """Features from a `trunk`, class scores from a linear `head`.

    Sharing experiments ask about the two apart (share the trunk, keep the heads), so every net has exactly
    these two children and `trunk.*` is a pattern for "all but the outputs".

    Args:
        trunk: Maps a batch of inputs to a batch of feature vectors, shape `(batch, features)`.
        head: Maps feature vectors to class scores, shape `(batch, num_classes)`.

    Example:
        >>> import torch
        >>> net = TrunkHead(nn.Flatten(), nn.Linear(4, 3))
        >>> net(torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Score each class.

        Args:
            x: A batch of inputs, shape `(batch, *input_shape)`.

        Returns:
            Unnormalised class scores, shape `(batch, num_classes)`.
        """
        scores: Tensor = self.head(self.trunk(x))
        return scores
