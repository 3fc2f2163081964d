"""The base class of the networks: a trunk and a linear head."""

from torch import Tensor, nn


class TrunkHead(nn.Module):
    """Compute features with a `trunk` and class scores with a linear `head`.

    Args:
        trunk: Maps a batch of inputs to feature vectors, shape `(batch, features)`.
        head: Maps feature vectors to class scores, shape `(batch, num_classes)`.

    Example:
        >>> import torch
        >>> net = TrunkHead(nn.Flatten(), nn.Linear(4, 3))
        >>> net(torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        # Every network has exactly these two children, so that the pattern `trunk.*` matches all
        # parameters except those of the head, in every architecture.
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return unnormalised class scores, shape `(batch, num_classes)`."""
        scores: Tensor = self.head(self.trunk(x))
        return scores
