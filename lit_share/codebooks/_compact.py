"""`compact`: the same outputs of fewer numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_share.aliases import replace_module, shared_with
from lit_share.codebooks._layers import CODEBOOKS, with_codebook, without_codebook
from lit_share.codebooks._replaceable import reason_to_stay
from lit_share.codebooks._unread import chains, layers_read_elsewhere, remove_unread, trace
from lit_share.ties import unwrapped


@torch.no_grad()
def compact(module: nn.Module) -> nn.Module:
    """Drop numbers that the outputs do not depend on, and store equal rows once.

    - Output units whose value the next layer does not read are removed, with their biases and batch normalisation,
      where the way from one layer to the next leads through functions that treat each channel alone. For this the
      module is traced by `torch.fx`; one that cannot be traced keeps its output units.
    - Rows (all weights of one input or input channel) that are zero are dropped, and equal ones become one row of a
      codebook layer, in every `torch.nn.Linear` and `torch.nn.Conv2d` where that takes fewer numbers.

    The outputs of ``forward`` stay the same, up to the order in which numbers are added; those of layers in between do
    not, so a ``features()`` of your own that ends before the last layer may return fewer units. Inputs of linear layers
    with batch normalisation are taken to be batches of vectors, those of convolutions batches of images. Layers that
    are shared or have hooks stay as they are. Parameters are replaced: make a new optimizer.

    Args:
        module: The module, changed in place.

    Returns:
        The module, or what takes its place if it is a single layer.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 2))
        >>> with torch.no_grad():
        ...     net[2].weight[:, 10:] = 0.0
        >>> _ = compact(net)
        >>> net[0].weight.shape, net[2].weight.shape
        (torch.Size([10, 6]), torch.Size([2, 10]))
    """
    inner, root = unwrapped(module), nn.Sequential(module)
    whole = root if inner is module else inner
    graphs = trace(whole)
    read_elsewhere = layers_read_elsewhere(whole, graphs)
    for names in chains(whole, graphs):
        producer, *norms, consumer = (
            whole.get_submodule(n) for n in (names[0], *names[1], names[2])
        )
        stay = [reason_to_stay(inner, layer) for layer in (producer, consumer)]
        if not any(stay) and not any(shared_with(inner, norm) for norm in norms):
            remove_unread(producer, norms, consumer)
    for layer in list(inner.modules()):
        if layer not in read_elsewhere and reason_to_stay(inner, layer) is None:
            _merge_rows(root, layer)
    return root[0]


def _merge_rows(root: nn.Module, layer: Any) -> None:
    """Replace a layer by one with each different row once, where that takes fewer numbers."""
    labels = _equal_rows(layer.weight.transpose(0, 1).flatten(1))
    gone = len(labels) - (int(labels.max()) + 1 if len(labels) else 0)
    if isinstance(layer, CODEBOOKS):
        if gone:
            # The last one for inputs that had no row before.
            assignment = torch.cat([labels, labels.new_full((1,), -1)])[layer.assignment]
            replace_module(root, layer, with_codebook(without_codebook(layer), assignment))
    elif gone * layer.weight[:, :1].numel() > len(labels):  # more than the assignment takes
        replace_module(root, layer, with_codebook(layer, labels))


def _equal_rows(rows: Tensor) -> Tensor:
    """Which rows are equal, numbered by their first occurrence; −1 for those that are zero."""
    labels = torch.full((len(rows),), -1, device=rows.device)
    nonzero = rows.any(dim=1)
    _, inverse = torch.unique(rows[nonzero], dim=0, return_inverse=True)
    first = torch.full(
        (int(inverse.max()) + 1 if len(inverse) else 0,), len(inverse), device=rows.device
    )
    first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=rows.device), "amin")
    labels[nonzero] = first.argsort().argsort()[inverse]
    return labels
