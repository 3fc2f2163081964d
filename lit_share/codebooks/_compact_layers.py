"""`compact_layers`: fewer numbers for the same outputs, layer by layer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.aliases import replace_module, shared_with
from lit_share.codebooks._first_occurrences import by_first_occurrence
from lit_share.codebooks._layers import CODEBOOKS, with_codebook, without_codebook
from lit_share.codebooks._replaceable import reason_to_stay
from lit_share.codebooks._unread import chains, layers_read_elsewhere, remove_unread, trace
from lit_share.ties import unwrapped

_LOG = logging.getLogger("lit_share")


@torch.inference_mode(False)
@torch.no_grad()
def compact_layers(module: nn.Module) -> nn.Module:
    """Drop numbers that the outputs do not depend on, and store equal rows once.

    - Output units that the next layer does not read are removed, with their biases and batch
      normalisation, where the functions between the two layers treat each channel separately. The
      module is traced by `torch.fx` for this; if tracing fails, which the logger ``"lit_share"``
      says at the level INFO, it keeps its output units.
    - Rows (all weights of an input or input channel) that are zero are dropped, and equal rows
      become one row of a codebook layer, in each `torch.nn.Linear` and `torch.nn.Conv2d` where that
      takes fewer numbers.

    The outputs of ``forward`` stay the same up to rounding, because the order of sums changes.
    Outputs of inner layers may have fewer units, and so may a ``features()`` method that returns
    them. Inputs of linear layers with batch normalisation must be batches of vectors, those of
    convolutions batches of images. Layers that are shared or have hooks stay unchanged. Parameters
    are replaced: make a new optimizer.

    Args:
        module: The module, changed in place.

    Returns:
        The module; if it is a single layer, the layer that replaces it.

    Example:
        >>> net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 2))
        >>> with torch.no_grad():
        ...     net[2].weight[:, 10:] = 0.0
        >>> _ = compact_layers(net)
        >>> net[0].weight.shape, net[2].weight.shape
        (torch.Size([10, 6]), torch.Size([2, 10]))
    """
    inner, root = unwrapped(module), nn.Sequential(module)
    # A layer that is traced as the root seems to be read by others, and could not be replaced. A
    # parent avoids both, but wrappers such as DistributedDataParallel cannot be traced.
    traced = inner
    if inner is module:
        traced = root
    graphs = trace(traced)
    if not graphs:
        _LOG.info("compact: torch.fx cannot trace %s: output units stay", type(inner).__name__)
    read_elsewhere = layers_read_elsewhere(traced, graphs)
    for first, between, last in chains(traced, graphs):
        producer, consumer = traced.get_submodule(first), traced.get_submodule(last)
        norms = [traced.get_submodule(name) for name in between]
        if reason_to_stay(inner, producer) or reason_to_stay(inner, consumer):
            continue
        if not any(shared_with(inner, norm) for norm in norms):
            remove_unread(producer, norms, consumer)
    # The list is made first, because layers are replaced in the loop.
    for layer in list(inner.modules()):
        if layer not in read_elsewhere and reason_to_stay(inner, layer) is None:
            _merge_rows(root, layer)
    return root[0]


def _merge_rows(root: nn.Module, layer: Any) -> None:
    """Replace ``layer`` in ``root`` by a codebook of its distinct nonzero rows if it is smaller."""
    labels, clusters = _equal_rows(layer.weight.transpose(0, 1).flatten(1))
    dropped = len(labels) - clusters
    if isinstance(layer, CODEBOOKS):
        if dropped:
            # The appended −1 keeps unassigned inputs unassigned.
            assignment = torch.cat([labels, labels.new_full((1,), -1)])[layer.assignment]
            replace_module(root, layer, with_codebook(without_codebook(layer), assignment))
    # The assignment takes a number for each input, which has to be saved first.
    elif dropped * layer.weight[:, :1].numel() > len(labels):
        replace_module(root, layer, with_codebook(layer, labels))


def _equal_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Return a label per row, equal for equal rows, −1 for zeros; and the number of labels ≥ 0."""
    labels = torch.full((len(rows),), -1, device=rows.device)
    nonzero = rows.any(dim=1)
    # Torch does not compare complex rows.
    numbers = torch.view_as_real(rows).flatten(1) if rows.is_complex() else rows
    distinct, inverse = torch.unique(numbers[nonzero], dim=0, return_inverse=True)
    labels[nonzero] = by_first_occurrence(inverse, len(distinct))
    return labels, len(distinct)
