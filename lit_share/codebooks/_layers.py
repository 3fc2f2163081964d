r"""Layers in which inputs share weights: a codebook of one row per cluster, and the cluster of each input.

A row is all weights of one input (or channel). With assignment :math:`a(i)` of input i to a cluster, or to none,

.. math:: y = \sum_i x_i w_{a(i)} + b = \sum_k \Big(\sum_{i: a(i) = k} x_i\Big) w_k + b

so that the inputs of each cluster are summed first, and multiplied by as many rows as there are clusters. Gradients of
shared rows are sums over their inputs by construction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_share.ties import mark_positions, position_count


class _Codebook(nn.Module):
    """What codebook layers have in common."""

    assignment: Tensor
    weight: Tensor
    _dim: int  # of the inputs that are summed, counted from the last

    @override
    def forward(self, input: Tensor) -> Tensor:
        sums = sum_clusters(input, self.assignment, self.weight.shape[1], self._dim)
        return super().forward(sums)  # type: ignore[no-any-return]

    def reason_not_to_share(self, attribute: str, other: nn.Module) -> str | None:
        """Say why the weight cannot be shared with another layer's; ``None`` if it can."""
        if attribute != "weight":
            return None
        clusters = other.assignment if isinstance(other, _Codebook) else None
        if clusters is not None and torch.equal(clusters, self.assignment):
            return None
        return (
            "are codebooks of different clusters, whose rows do not correspond: share before rows are "
            "tied, or call lit_share.densify"
        )

    @override
    def extra_repr(self) -> str:
        return f"inputs={len(self.assignment)}, clusters={self.weight.shape[1]}, {super().extra_repr()}"

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        assignment = state_dict.get(f"{prefix}assignment")
        rows = self.weight.shape[1]
        if (
            assignment is not None
            and assignment.numel()
            and not -1 <= int(assignment.min()) <= int(assignment.max()) < rows
        ):
            errors = rest[-1]
            errors.append(
                f"{prefix}assignment assigns inputs to rows that a codebook of {rows} does not have"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CodebookLinear(_Codebook, nn.Linear):
    """A linear layer whose inputs share rows of weights.

    ``weight`` has shape (outputs, clusters): it *is* the codebook, a parameter like any other.

    Args:
        assignment: The cluster of each input, int64 of shape (inputs,), −1 for inputs that are not read.
        out_features: Number of outputs.
        bias: Whether there is a bias.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ValueError: If the assignment is not one dimension of whole numbers from −1 on, or all of it is −1.

    Example:
        >>> layer = CodebookLinear(torch.tensor([0, 1, 0, -1]), out_features=3)
        >>> layer.weight.shape
        torch.Size([3, 2])
        >>> layer(torch.ones(5, 4)).shape
        torch.Size([5, 3])

    Source:
        Zhang et al., *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep Learning*, ICLR 2018.
    """

    _dim = -1

    def __init__(
        self,
        assignment: Tensor,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(number_of_clusters(assignment), out_features, bias, device, dtype)
        self.register_buffer("assignment", assignment.to(self.weight.device, copy=True))


class CodebookConv2d(_Codebook, nn.Conv2d):
    """A convolution whose input channels share filters.

    ``weight`` has shape (outputs, clusters, height, width): it *is* the codebook, a parameter like any other.

    Args:
        assignment: The cluster of each input channel, int64 of shape (channels,), −1 for channels that are not read.
        out_channels: Number of output channels.
        kernel_size: As for `torch.nn.Conv2d`.
        **options: As for `torch.nn.Conv2d`, without ``groups``.

    Raises:
        ValueError: If the assignment is not one dimension of whole numbers from −1 on, or all of it is −1.

    Example:
        >>> layer = CodebookConv2d(torch.tensor([0, 1, 0, -1]), out_channels=3, kernel_size=3, padding=1)
        >>> layer.weight.shape
        torch.Size([3, 2, 3, 3])
        >>> layer(torch.ones(5, 4, 8, 8)).shape
        torch.Size([5, 3, 8, 8])
    """

    _dim = -3

    def __init__(
        self, assignment: Tensor, out_channels: int, kernel_size: Any, **options: Any
    ) -> None:
        super().__init__(number_of_clusters(assignment), out_channels, kernel_size, **options)
        self.register_buffer("assignment", assignment.to(self.weight.device, copy=True))


CODEBOOKS = (CodebookLinear, CodebookConv2d)
CodebookLayer = CodebookLinear | CodebookConv2d


def sum_clusters(x: Tensor, assignment: Tensor, clusters: int, dim: int) -> Tensor:
    """The sums of the inputs of each cluster.

    Args:
        x: Inputs, with ``len(assignment)`` of them along ``dim``.
        assignment: The cluster of each, −1 for none.
        clusters: Number of clusters.
        dim: The dimension of the inputs, negative.

    Returns:
        Tensor with ``clusters`` along ``dim``.

    Raises:
        ValueError: If there are not as many inputs along ``dim`` as the assignment has.

    Example:
        >>> sum_clusters(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0, 1, 0, -1]), clusters=2, dim=-1)
        tensor([[4., 2.]])
    """
    if x.ndim < -dim or x.shape[dim] != len(assignment):
        raise ValueError(
            f"a codebook of {len(assignment)} inputs needs as many along dim {dim}, got {tuple(x.shape)}"
        )
    shape = list(x.shape)
    shape[dim] = clusters + 1
    # What belongs to no cluster is summed in one more, and left out.
    sums = x.new_zeros(shape).index_add(dim, assignment.remainder(clusters + 1), x)
    return sums.narrow(dim, 0, clusters)


def number_of_clusters(assignment: Tensor) -> int:
    """The number of clusters of an assignment; `ValueError` if it is none."""
    if (
        assignment.ndim != 1
        or assignment.dtype != torch.int64
        or (assignment < -1).any()
        or not (assignment >= 0).any()
    ):
        raise ValueError(
            f"an assignment must be int64 of one dimension, from -1 on and not all -1, got {assignment}"
        )
    return int(assignment.max()) + 1


@torch.no_grad()
def with_codebook(layer: nn.Linear | nn.Conv2d, assignment: Tensor) -> CodebookLayer:
    """The layer with one row for each cluster: the mean of its inputs' rows."""
    nothing = bool((assignment < 0).all())
    if nothing:
        assignment = torch.zeros_like(
            assignment
        )  # torch's layers have one input at least: here one row of zeros
    rows, clusters = layer.weight.transpose(0, 1), number_of_clusters(assignment)
    kept = assignment >= 0
    own, labels = rows[kept], assignment[kept]
    # Deviations from the first row of a cluster, so that the mean of equal rows is that row, not rounded.
    first = torch.full((clusters,), len(own), device=rows.device)
    first.scatter_reduce_(0, labels, torch.arange(len(own), device=rows.device), "amin")
    leaders = own[first]
    deviations = rows.new_zeros(leaders.shape).index_add(0, labels, own - leaders[labels])
    sizes = (
        torch.bincount(labels, minlength=clusters).to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
    )
    codebook = (leaders + deviations / sizes).transpose(0, 1)
    made = _like(
        layer,
        CodebookConv2d if isinstance(layer, nn.Conv2d) else CodebookLinear,
        assignment,
        codebook,
    )
    made.assignment = assignment
    made.weight.requires_grad_(made.weight.requires_grad and not nothing)  # which stays zero
    return made  # type: ignore[no-any-return]


def without_codebook(layer: CodebookLayer) -> nn.Linear | nn.Conv2d:
    """The ordinary layer, in which every input has a row of its own."""
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    return _like(layer, kind, len(layer.assignment), dense_weight(layer))  # type: ignore[no-any-return]


def dense_weight(layer: CodebookLayer) -> Tensor:
    """The weight of the ordinary layer, (outputs, inputs, …): zero for inputs that are not read."""
    weight = layer.weight.detach()
    padded = torch.cat([weight, weight.new_zeros(weight.shape[0], 1, *weight.shape[2:])], dim=1)
    return padded.index_select(1, layer.assignment.remainder(padded.shape[1]))


def _like(layer: nn.Linear | nn.Conv2d, kind: Any, inputs: Any, weight: Tensor) -> Any:
    """A layer with the options of another one, for these inputs and with this weight."""
    if isinstance(layer, nn.Conv2d):
        options = {
            name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")
        }
        made = kind(
            inputs, layer.out_channels, layer.kernel_size, bias=False, device="meta", **options
        )
    else:
        made = kind(inputs, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), layer.weight.requires_grad)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    positions = position_count(layer)
    if positions is not None:
        mark_positions(made, positions)
    return made.train(layer.training)
