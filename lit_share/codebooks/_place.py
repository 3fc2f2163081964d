"""Codebook layers without values, which a file provides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lit_share.aliases import replace_module
from lit_share.codebooks._layers import CODEBOOKS, with_codebook, without_codebook
from lit_share.codebooks._replaceable import reason_to_stay
from lit_share.ties import ParameterRef


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


def match_codebooks(
    module: nn.Module, weights: Iterable[ParameterRef], state: Mapping[str, Tensor]
) -> None:
    """Give layers the codebooks of a state dict, or make them ordinary where it has none.

    Args:
        module: The module that has the layers, changed in place. Values are still to be loaded.
        weights: The weights of the layers.
        state: The state dict that will be loaded.

    Raises:
        ValueError: If a layer cannot be replaced.
    """
    for ref in weights:
        prefix = ref.name.removesuffix("weight")
        assignment, layer = state.get(f"{prefix}assignment"), ref.owner
        if isinstance(layer, CODEBOOKS):
            if assignment is not None and layer.weight.shape == state[ref.name].shape:
                continue
            ordinary = without_codebook(layer)
            replace_module(module, layer, ordinary)
            layer = ordinary
        if assignment is not None:
            place_codebook(module, layer, len(assignment), state[ref.name].shape[1])
