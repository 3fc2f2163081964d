r"""Layers in which the inputs of a cluster share a row of weights.

A row is all weights of one input (or channel). With the assignment :math:`a(i)` of input i to a
cluster,

.. math:: y = \sum_i x_i w_{a(i)} + b = \sum_k \Big(\sum_{i: a(i) = k} x_i\Big) w_k + b

The inputs of each cluster are summed first, then multiplied by the row of the cluster, so that the
gradient of a row is the sum over its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_share.codebooks._first_occurrences import first_occurrences
from lit_share.ties import mark_positions, position_count


class _Codebook(nn.Module):
    assignment: Tensor
    weight: Tensor
    # The dimension of the inputs. It is negative, because batch dimensions are optional.
    _dim: int

    @override
    def forward(self, input: Tensor) -> Tensor:
        # Sums cost one pass over the input, and save multiplications: with 4 inputs per cluster, a
        # linear layer of 4096 × 4096 is 3.8 times faster (`benchmarks.codebook`).
        sums = sum_clusters(input, self.assignment, self.weight.shape[1], self._dim)
        return super().forward(sums)  # type: ignore[no-any-return]

    def reason_not_to_share(self, attribute: str, other: nn.Module) -> str | None:
        """Return why ``attribute`` cannot be shared with that of ``other``; ``None`` if it can."""
        if attribute != "weight":
            return None
        if isinstance(other, _Codebook) and torch.equal(other.assignment, self.assignment):
            return None
        return (
            "are codebooks of different clusters, whose rows do not correspond: share before rows "
            "are tied, or call lit_share.densify"
        )

    @override
    def extra_repr(self) -> str:
        inputs, clusters = len(self.assignment), self.weight.shape[1]
        return f"inputs={inputs}, clusters={clusters}, {super().extra_repr()}"

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        assignment = state_dict.get(f"{prefix}assignment")
        rows = self.weight.shape[1]
        # torch compares shapes only: a wrong index would fail in `forward`, without a name.
        if assignment is not None and assignment.numel():
            lowest, highest = int(assignment.min()), int(assignment.max())
            if not -1 <= lowest <= highest < rows:
                error_messages = rest[-1]
                error_messages.append(
                    f"{prefix}assignment assigns inputs to rows that a codebook of {rows} does not "
                    "have"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class CodebookLinear(_Codebook, nn.Linear):
    """A linear layer in which the inputs of a cluster share a row of weights.

    ``weight``, of shape (outputs, clusters), *is* the codebook, and a parameter like any other.

    Args:
        assignment: The cluster of each input, int64 of shape (inputs,); −1 for unread inputs.
        out_features: Number of outputs.
        bias: Whether there is a bias.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: If the assignment is not a vector of int64 ≥ −1, or all of it is −1.

    Example:
        >>> layer = CodebookLinear(torch.tensor([0, 1, 0, -1]), out_features=3)
        >>> layer.weight.shape
        torch.Size([3, 2])
        >>> layer(torch.ones(5, 4)).shape
        torch.Size([5, 3])

    Source:
        Zhang et al., *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep
        Learning*, ICLR 2018.
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
    """A convolution in which the input channels of a cluster share filters.

    ``weight``, of shape (outputs, clusters, height, width), *is* the codebook.

    Args:
        assignment: The cluster of each input channel, int64 of shape (channels,); −1 for unread
            channels.
        out_channels: Number of output channels.
        kernel_size: As for `torch.nn.Conv2d`.
        **options: As for `torch.nn.Conv2d`, without ``groups``.

    Raises:
        ValueError: If the assignment is not a vector of int64 ≥ −1, or all of it is −1.

    Example:
        >>> assignment = torch.tensor([0, 1, 0, -1])
        >>> layer = CodebookConv2d(assignment, out_channels=3, kernel_size=3, padding=1)
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


# The classes of ordinary layers and of codebooks correspond: the linear one comes first.
ORDINARY = (nn.Linear, nn.Conv2d)
CODEBOOKS = (CodebookLinear, CodebookConv2d)
CodebookLayer = CodebookLinear | CodebookConv2d


def sum_clusters(x: Tensor, assignment: Tensor, clusters: int, dim: int) -> Tensor:
    """Sum the inputs of each cluster.

    Args:
        x: Inputs, ``len(assignment)`` along ``dim``.
        assignment: The cluster of each input, −1 for none.
        clusters: Number of clusters.
        dim: The dimension of the inputs, negative.

    Returns:
        Tensor with ``clusters`` sums along ``dim``.

    Raises:
        ValueError: If the number of inputs along ``dim`` is not that of the assignment.

    Example:
        >>> x, assignment = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0, 1, 0, -1])
        >>> sum_clusters(x, assignment, clusters=2, dim=-1)
        tensor([[4., 2.]])
    """
    inputs = len(assignment)
    if x.ndim < -dim or x.shape[dim] != inputs:
        raise ValueError(
            f"a codebook of {inputs} inputs needs as many along dim {dim}, got {tuple(x.shape)}"
        )
    shape = list(x.shape)
    shape[dim] = clusters + 1
    # Unassigned inputs go to an extra cluster, because −1 mod (clusters + 1) = clusters. It is
    # dropped; selecting the assigned inputs instead would copy the input.
    sums = x.new_zeros(shape).index_add(dim, assignment.remainder(clusters + 1), x)
    return sums.narrow(dim, 0, clusters)


def number_of_clusters(assignment: Tensor) -> int:
    """Return the number of clusters of an assignment, or raise `ValueError` if it is invalid."""
    if (
        assignment.ndim != 1
        or assignment.dtype != torch.int64
        or (assignment < -1).any()
        or not (assignment >= 0).any()
    ):
        raise ValueError(
            "an assignment must be int64 of one dimension, from -1 on and not all -1, got "
            f"{assignment}"
        )
    return int(assignment.max()) + 1


@torch.no_grad()
def with_codebook(layer: nn.Linear | nn.Conv2d, assignment: Tensor) -> CodebookLayer:
    """Return a codebook layer whose rows are the means of the clusters' rows.

    The rows of a codebook layer are clustered again: each counts as often as it has inputs, so that
    the result is that of clustering the inputs at once.

    Args:
        layer: An ordinary layer, or a codebook layer.
        assignment: The cluster of each row of its weight, −1 for rows that are dropped.
    """
    rows = layer.weight.transpose(0, 1)
    row_of_inputs = torch.arange(len(rows), device=rows.device)
    if isinstance(layer, CODEBOOKS):
        row_of_inputs = layer.assignment
    all_unread = bool((assignment < 0).all())
    if all_unread:
        # torch's layers have at least one input, so that all inputs get one row of zeros.
        assignment = torch.zeros_like(assignment)
    clusters, assigned = number_of_clusters(assignment), assignment >= 0
    counts = torch.bincount(row_of_inputs[row_of_inputs >= 0], minlength=len(rows))
    counts = counts.clamp_min(1)[assigned].to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
    rows, labels = rows[assigned], assignment[assigned]
    # Deviations from the first row of a cluster are averaged, so that the mean of equal rows is
    # exactly that row, without rounding.
    first_rows = rows[first_occurrences(labels, clusters)]
    deviations = torch.zeros_like(first_rows)
    deviations.index_add_(0, labels, counts * (rows - first_rows[labels]))
    sizes = counts.new_zeros(clusters, *counts.shape[1:]).index_add_(0, labels, counts)
    means = first_rows + deviations / sizes
    codebook = _like(layer, CODEBOOKS, assignment, means.transpose(0, 1))
    # An unread input stays unread: its row is the last one, which is −1.
    codebook.assignment = torch.cat([assignment, assignment.new_full((1,), -1)])[row_of_inputs]
    if all_unread:
        codebook.weight.requires_grad_(False)  # training must not move the row of zeros
    return codebook  # type: ignore[no-any-return]


def without_codebook(layer: CodebookLayer) -> nn.Linear | nn.Conv2d:
    """Return the ordinary layer, in which every input has its own row."""
    dense = dense_weight(layer)
    return _like(layer, ORDINARY, len(layer.assignment), dense)  # type: ignore[no-any-return]


def dense_weight(layer: CodebookLayer) -> Tensor:
    """Return the weight of the ordinary layer, (outputs, inputs, …): zero for unread inputs."""
    weight = layer.weight.detach()
    padded = torch.cat([weight, weight.new_zeros(weight.shape[0], 1, *weight.shape[2:])], dim=1)
    return padded.index_select(1, layer.assignment.remainder(padded.shape[1]))


def _like(layer: nn.Linear | nn.Conv2d, kinds: tuple[Any, Any], inputs: Any, weight: Tensor) -> Any:
    """Return a layer like ``layer`` with this weight: ``kinds[0](inputs, …)``, or ``[1]`` if 2d."""
    linear, convolution = kinds
    # No parameters are drawn on the meta device, so that the user's random numbers are the same.
    if isinstance(layer, nn.Conv2d):
        names = ("stride", "padding", "dilation", "padding_mode")
        options = {name: getattr(layer, name) for name in names}
        replacement = convolution(
            inputs, layer.out_channels, layer.kernel_size, bias=False, device="meta", **options
        )
    else:
        replacement = linear(inputs, layer.out_features, bias=False, device="meta")
    replacement.weight = nn.Parameter(weight.contiguous(), layer.weight.requires_grad)
    if layer.bias is not None:
        replacement.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    positions = position_count(layer)
    if positions is not None:
        mark_positions(replacement, positions)
    return replacement.train(layer.training)
