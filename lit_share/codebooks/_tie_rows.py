"""`tie_rows` and `densify`: from ordinary layers to codebook layers, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lit_share.aliases import Inputs, replace_module, shared_with
from lit_share.codebooks._cluster_inputs import check_clustering, cluster_inputs
from lit_share.codebooks._cluster_rows import MethodName, cluster_rows
from lit_share.codebooks._layer_inputs import call_with, covariances
from lit_share.codebooks._layers import (
    CODEBOOKS,
    CodebookLayer,
    dense_weight,
    with_codebook,
    without_codebook,
)
from lit_share.codebooks._replaceable import reason_to_stay
from lit_share.text import check_choice
from lit_share.ties import ParameterRef, TieError, Ties, as_ties, unwrapped

if TYPE_CHECKING:
    from rich.table import Table

RowsBy = Literal["weights", "data"]
# A layer keeps its rows if at most this fraction of them would be saved.
_LEAST_SAVED = 0.05


@dataclass(frozen=True)
class LayerRows:
    """The clusters found in a layer.

    Attributes:
        name: The name of the layer's weight.
        rows: Number of rows: inputs, or input channels.
        zero: Number of rows that are exactly zero.
        clusters: Number of clusters.
        replaced: Whether the layer is now a codebook layer; a layer that would save hardly any rows
            stays unchanged.
    """

    name: str
    rows: int
    zero: int
    clusters: int
    replaced: bool

    @property
    def sharing(self) -> float:
        """The number of nonzero rows per cluster, at least 1."""
        return (self.rows - self.zero) / max(self.clusters, 1)


@dataclass(frozen=True)
class RowReport:
    """The clusters found in all layers, as a table for `print` and `rich.print`."""

    layers: tuple[LayerRows, ...]

    def __iter__(self) -> Iterator[LayerRows]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        lines = []
        for layer in self.layers:
            counts = f"{layer.rows} rows, {layer.zero} zero, {layer.clusters} clusters"
            remark = "" if layer.replaced else " (left alone)"
            lines.append(f"{layer.name}: {counts}{remark}")
        return "\n".join(lines)

    def __rich__(self) -> Table:
        # Rich takes 50 ms to import, and is needed to print only.
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(title="Rows", box=SIMPLE)
        table.add_column("weight", overflow="fold")
        for name in ("rows", "zero", "clusters", "rows / cluster"):
            table.add_column(name, justify="right")
        for layer in self.layers:
            counts = (f"{n:,}" for n in (layer.rows, layer.zero, layer.clusters))
            rows_per_cluster = f"{layer.sharing:.2f}" if layer.replaced else "left alone"
            table.add_row(layer.name, *counts, rows_per_cluster)
        return table


@torch.no_grad()
def tie_rows(
    module: nn.Module,
    ties: Ties | Sequence[Ties],
    similarity: float = 0.7,
    method: MethodName = "auto",
    by: RowsBy = "weights",
    inputs: Iterable[Inputs] | None = None,
    clusters: int | None = None,
    hidden: bool = True,
) -> RowReport:
    """Cluster the rows of layers, and replace the rows of each cluster by their mean, stored once.

    A row is all weights of one input of a `torch.nn.Linear`, or of one input channel of a
    `torch.nn.Conv2d`. The layers become `CodebookLinear` and `CodebookConv2d`.

    - ``by="weights"``, after training with a penalty: rows that are alike become one (see
      `cluster_rows`), and rows that are exactly zero are dropped. The rows of a codebook layer are
      clustered again, each counting as often as it has inputs.
    - ``by="data"``, before training: rows of inputs that vary together in data become one, whatever
      their weights (see `cluster_inputs`), and inputs that are always zero are dropped. The module
      is called once with each batch of ``inputs``, in evaluation mode; the memory is that of the
      inputs' covariance matrix.

    Because rows become means, outputs change: train the module again, with a new optimizer and
    without the penalty that brought the rows together. The gradient of a row is the sum over its
    inputs, so that plain SGD needs a smaller learning rate: divide it by the size of the largest
    cluster to keep training as stable as before.

    Args:
        module: The module, changed in place.
        ties: The weights of the layers, by one pattern, such as ``Ties("net.*.weight")``; exclude
            the weights of other kinds of layers.
        similarity: The similarity of the rows of a cluster, in (0, 1], see `cluster_rows`; with
            ``by="data"`` the share of the inputs' variance that clusters explain, see
            `cluster_inputs`.
        method: The clustering method of weights; see `cluster_rows`.
        by: What is compared: the ``"weights"``, or their inputs in ``"data"``.
        inputs: Batches of what the module's forward takes, for ``by="data"``: a DataLoader, or
            ``(x for x, _ in loader)``.
        clusters: The number of clusters of each layer, for ``by="data"``, in place of
            ``similarity``.
        hidden: Whether, with ``by="data"``, layers are tied whose inputs depend on parameters that
            require gradients. Before training these inputs vary together by chance of the initial
            weights: write ``False`` to tie only layers that read data, or features of a frozen
            part.

    Returns:
        The clusters of each layer. Layers in which at most a twentieth of the rows would be saved
        stay unchanged.

    Raises:
        TieError: If the patterns do not fit the module (see `Ties.find`), or a weight does not
            belong to an unshared linear layer or convolution without groups and hooks.
        ValueError: If the similarity is not in (0, 1], a weight or an input is not finite, or
            arguments do not fit each other.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with torch.no_grad():
        ...     net[0].weight[:, 1:3] = net[0].weight[:, :1]
        ...     net[0].weight[:, 5] = 0.0
        >>> print(tie_rows(net, Ties("0.weight"), similarity=0.99))
        0.weight: 6 rows, 1 zero, 3 clusters

        In these data, the first two inputs vary together:

        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> x = torch.tensor([[1.0, 1.1, 0.0], [2.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
        >>> print(tie_rows(net, Ties("0.weight"), by="data", inputs=[x]))
        0.weight: 3 rows, 0 zero, 2 clusters

    Source:
        Zhang et al., *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep
        Learning*, ICLR 2018, Section 3.
    """
    check_choice("by", by, RowsBy)
    if by == "data":
        if inputs is None:
            raise ValueError('by="data" needs inputs=, such as (x for x, _ in loader)')
        check_clustering(similarity, clusters)
        layers = find_row_layers(module, ties, by)
        found = covariances(layers, lambda: call_with(module, inputs), hidden)
        assignments = [
            None if own is None else cluster_inputs(own, similarity, clusters)
            for own in found.values()
        ]
        return tie_found(module, layers, assignments)
    for name, value in {"inputs": inputs, "clusters": clusters}.items():
        if value is not None:
            raise ValueError(f'{name} has no effect with by="weights": write by="data"')
    layers = find_row_layers(module, ties, by)
    assignments = [_cluster(name, layer, similarity, method) for name, layer in layers.items()]
    return tie_found(module, layers, assignments)


def find_row_layers(
    module: nn.Module, ties: Ties | Sequence[Ties], by: RowsBy
) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the layers of ties, by the names of their weights.

    Raises:
        TieError: If the rows of a layer cannot be tied; see `tie_rows`.
    """
    ties = as_ties(ties)
    ties.refuse_numbers("compares numbers, and tie_rows compares rows: leave out [...]")
    layers = dict(_layer(module, ref) for ref in _weights(module, ties))
    for name, layer in layers.items():
        if by == "data" and isinstance(layer, CODEBOOKS):
            raise TieError(
                f"{name!r} is a codebook already, whose rows have several inputs: call "
                "lit_share.densify first, exclude it, or write by='weights'"
            )
    return layers


@torch.no_grad()
def tie_found(
    module: nn.Module,
    layers: Mapping[str, nn.Linear | nn.Conv2d],
    assignments: Sequence[Tensor | None],
) -> RowReport:
    """Replace layers by codebook layers, unless they would save hardly any rows.

    Args:
        module: The module that has the layers, changed in place.
        layers: The layers by the names of their weights; see `find_row_layers`.
        assignments: The cluster of each input of each layer, −1 for unread inputs; ``None`` for a
            layer that stays.
    """
    reports = []
    for (name, layer), found in zip(layers.items(), assignments, strict=True):
        rows = layer.weight.shape[1]
        labels = torch.arange(rows) if found is None else found.to(layer.weight.device)
        clusters, zero = int(labels.max()) + 1, int((labels < 0).sum())
        replaced = rows - clusters > _LEAST_SAVED * rows
        if replaced:
            codebook = with_codebook(layer, labels)
            replace_module(module, layer, codebook)
            rows, zero = len(codebook.assignment), int((codebook.assignment < 0).sum())
        reports.append(LayerRows(name, rows, zero, clusters, replaced))
    return RowReport(tuple(reports))


def row_report(weights: Iterable[ParameterRef]) -> RowReport:
    """Return how the rows of weights are tied: those of ordinary layers are clusters of their own.

    Example:
        >>> from lit_share.codebooks import CodebookLinear
        >>> from lit_share.ties import parameter_refs
        >>> net = nn.Sequential(CodebookLinear(torch.tensor([0, 1, 0, -1]), 3, bias=False))
        >>> print(row_report(parameter_refs(net)))
        0.weight: 4 rows, 1 zero, 2 clusters
    """
    layers = []
    for ref in weights:
        layer = ref.owner
        assert isinstance(layer.weight, Tensor)
        rows = clusters = layer.weight.shape[1]
        zero, replaced = 0, isinstance(layer, CODEBOOKS)
        if isinstance(layer, CODEBOOKS):
            rows, zero = len(layer.assignment), int((layer.assignment < 0).sum())
        layers.append(LayerRows(ref.name, rows, zero, clusters, replaced))
    return RowReport(tuple(layers))


def densify(module: nn.Module) -> None:
    """Replace codebook layers by ordinary layers with the same outputs.

    Args:
        module: The module, changed in place.

    Raises:
        TieError: If the module itself is a codebook layer, which has no parent to be replaced in,
            or a codebook layer shares a parameter with another layer.

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
    # A layer with several names is replaced once.
    layers = dict.fromkeys(layer for _, layer in codebook_layers(module))
    for layer in layers:
        others = shared_with(module, layer)
        if others:
            raise TieError(f"{layer} is shared with {others}: call lit_share.unshare first")
    for layer in layers:
        replace_module(module, layer, without_codebook(layer))


def codebook_layers(module: nn.Module) -> list[tuple[str, CodebookLayer]]:
    """Return the codebook layers of a module, under all of their names."""
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
    if ref.attribute != "weight":
        kind = type(layer).__name__
        reason = f"is not the weight of a Linear or Conv2d but the {ref.attribute} of a {kind}"
    if reason is not None:
        raise TieError(f"{ref.name!r} {reason}: exclude it")
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return ref.name, layer


def _cluster(
    name: str, layer: nn.Linear | nn.Conv2d, similarity: float, method: MethodName
) -> Tensor:
    """Return the cluster of each row of a layer's weight."""
    weight = layer.weight.detach()
    if isinstance(layer, CODEBOOKS):
        weight = dense_weight(layer)
    try:
        labels = cluster_rows(weight.transpose(0, 1).flatten(1), similarity, method)
    except ValueError as error:
        # `cluster_rows` knows no names, and users look for the layer that diverged.
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(layer, CODEBOOKS):
        return labels
    # The inputs of a row are equal, and so in one cluster.
    assignment = layer.assignment.cpu()
    of_rows = torch.full((layer.weight.shape[1],), -1)
    of_rows[assignment[assignment >= 0]] = labels[assignment >= 0]
    return of_rows
