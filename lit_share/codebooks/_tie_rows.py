"""Clustering the rows of layers, and putting codebook layers in their places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lit_share.aliases import replace_module, shared_with
from lit_share.codebooks._cluster_rows import cluster_rows
from lit_share.codebooks._layers import (
    CODEBOOKS,
    CodebookLayer,
    with_codebook,
    without_codebook,
)
from lit_share.codebooks._replaceable import reason_to_stay
from lit_share.ties import ParameterRef, TieError, Ties, check_ties, unwrapped

if TYPE_CHECKING:
    from rich.table import Table

Method = Literal["auto", "affinity_propagation", "linkage"]

# A layer keeps its rows if fewer than this share of them would go.
_LEAST_SAVED = 0.05


@dataclass(frozen=True)
class LayerRows:
    """What became of one layer's rows.

    Attributes:
        name: The name of its weight.
        rows: The number of its rows: inputs, or input channels.
        zero: How many of them are exactly zero.
        clusters: How many different rows are left.
        replaced: Whether the layer is a codebook layer now; one in which hardly anything clusters is left alone.
    """

    name: str
    rows: int
    zero: int
    clusters: int
    replaced: bool

    @property
    def sharing(self) -> float:
        """Rows that are not zero per cluster, at least 1."""
        return (self.rows - self.zero) / max(self.clusters, 1)


@dataclass(frozen=True)
class RowReport:
    """What became of the rows of all layers, printable with `rich.print` and `print`."""

    layers: tuple[LayerRows, ...]

    def __iter__(self) -> Iterator[LayerRows]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return "\n".join(
            f"{layer.name}: {layer.rows} rows, {layer.zero} zero, {layer.clusters} clusters"
            + ("" if layer.replaced else " (left alone)")
            for layer in self.layers
        )

    def __rich__(self) -> Table:
        from rich.box import SIMPLE  # only to print: it takes 50 ms
        from rich.table import Table

        table = Table(title="Rows", box=SIMPLE)
        table.add_column("weight", overflow="fold")
        for name in ("rows", "zero", "clusters", "rows / cluster"):
            table.add_column(name, justify="right")
        for layer in self.layers:
            counts = (f"{n:,}" for n in (layer.rows, layer.zero, layer.clusters))
            table.add_row(
                layer.name, *counts, f"{layer.sharing:.2f}" if layer.replaced else "left alone"
            )
        return table


@torch.no_grad()
def tie_rows(
    module: nn.Module,
    ties: Ties,
    similarity: float = 0.7,
    method: Method = "auto",
) -> RowReport:
    """Cluster the rows of layers, and make each cluster one row, stored once, that is trained as one.

    A row is all weights of one input of a `torch.nn.Linear`, or of one input channel of a `torch.nn.Conv2d`. Rows that
    are exactly zero are dropped. The layers become `CodebookLinear` and `CodebookConv2d`, with the means of clusters as
    weights: so the module's outputs change a little, and it is to be trained again, with a new optimizer and without
    the penalty that brought the rows together. The gradient of a row is the sum of those of its inputs, so that plain
    SGD needs a smaller learning rate than before: with the learning rate over the size of the largest cluster it is
    stable where it was.

    Args:
        module: The module, changed in place.
        ties: The weights of the layers, by one pattern, as ``Ties("net.*.weight")``; what belongs to other layers has
            to be excluded.
        similarity: How alike rows of a cluster are, in (0, 1]; see `lit_share.functional.cluster_rows`.
        method: How rows are clustered.

    Returns:
        What became of each layer's rows; layers in which less than a twentieth of the rows would go are left alone.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a weight is not that of a linear layer or
            convolution of its own, without groups and hooks.
        ValueError: If the similarity is not in (0, 1], or a weight is not finite.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with torch.no_grad():
        ...     net[0].weight[:, 1:3] = net[0].weight[:, :1]
        ...     net[0].weight[:, 5] = 0.0
        >>> print(tie_rows(net, Ties("0.weight"), similarity=0.99))
        0.weight: 6 rows, 1 zero, 3 clusters

    Source:
        Zhang et al., *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep Learning*, ICLR 2018,
        Section 3.
    """
    check_ties(ties)
    layers = [_layer(module, ref) for ref in _weights(module, ties)]
    assignments = [_cluster(name, layer, similarity, method) for name, layer in layers]
    reports = []
    for (name, layer), labels in zip(layers, assignments, strict=True):
        clusters, zero = int(labels.max()) + 1, int((labels < 0).sum())
        replaced = len(labels) - clusters > _LEAST_SAVED * len(labels)
        reports.append(LayerRows(name, len(labels), zero, clusters, replaced))
        if replaced:
            replace_module(module, layer, with_codebook(layer, labels))
    return RowReport(tuple(reports))


def densify(module: nn.Module) -> None:
    """Make codebook layers ordinary ones again, of the same outputs.

    Args:
        module: The module, changed in place.

    Raises:
        TieError: If the module is itself a codebook layer, which cannot be replaced in itself, or a codebook layer
            shares a parameter with another one.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 4))
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> _ = tie_rows(net, Ties("0.weight"))
        >>> densify(net)
        >>> net
        Sequential(
          (0): Linear(in_features=6, out_features=4, bias=True)
        )
    """
    layers = dict.fromkeys(layer for _, layer in codebook_layers(module))
    for layer in layers:
        others = shared_with(module, layer)
        if others:
            raise TieError(f"{layer} is shared with {others}: call lit_share.unshare first")
    for layer in layers:
        replace_module(module, layer, without_codebook(layer))


def codebook_layers(module: nn.Module) -> list[tuple[str, CodebookLayer]]:
    """The codebook layers of a module, under all of their names."""
    named = unwrapped(module).named_modules(remove_duplicate=False)
    return [(name, layer) for name, layer in named if isinstance(layer, CODEBOOKS)]


def _weights(module: nn.Module, ties: Ties) -> list[ParameterRef]:
    found = ties.find(module)
    for tie in found:
        if len(tie.members) > 1:
            names = ", ".join(repr(member.name) for member in tie.members)
            raise TieError(
                f"rows are tied within each weight: write one pattern, not one for each of {names}"
            )
    return [tie.members[0].ref for tie in found]


def _layer(module: nn.Module, ref: ParameterRef) -> tuple[str, nn.Linear | nn.Conv2d]:
    layer = ref.owner
    reason = reason_to_stay(unwrapped(module), layer)
    if isinstance(layer, CODEBOOKS):
        raise TieError(
            f"{ref.name!r} is a codebook already: call lit_share.densify first, or exclude it"
        )
    if ref.attribute != "weight":
        reason = f"is not the weight of a Linear or Conv2d but the {ref.attribute} of a {type(layer).__name__}"
    if reason is not None:
        raise TieError(f"{ref.name!r} {reason}: exclude it")
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return ref.name, layer


def _cluster(name: str, layer: nn.Linear | nn.Conv2d, similarity: float, method: Method) -> Tensor:
    rows = layer.weight.detach().transpose(0, 1).flatten(1)
    try:
        return cluster_rows(rows, similarity, method).to(rows.device)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
