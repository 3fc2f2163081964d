"""Codebook layers without values, which a file provides."""

from __future__ import annotations

import torch
from torch import nn

from lit_share.aliases import replace_module
from lit_share.codebooks._layers import with_codebook
from lit_share.codebooks._replaceable import reason_to_stay


def place_codebook(module: nn.Module, layer: nn.Module, inputs: int, clusters: int) -> None:
    """Replace an ordinary layer by a codebook layer whose values are still to be loaded.

    Args:
        module: The module that holds the layer.
        layer: A linear layer or a convolution.
        inputs: Number of inputs of the codebook.
        clusters: Number of rows of the codebook, at most ``inputs``.

    Raises:
        ValueError: If the layer cannot be replaced; the message is the end of a sentence about it.
    """
    reason = reason_to_stay(module, layer)
    if reason is not None:
        raise ValueError(reason)
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    if layer.weight.shape[1] != inputs:
        raise ValueError(f"is a {layer}")
    # Any assignment that uses all clusters gives the codebook its shape.
    assignment = torch.arange(inputs).clamp_max(clusters - 1)
    replace_module(module, layer, with_codebook(layer, assignment))
