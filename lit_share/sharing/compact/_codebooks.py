"""Codebook layers in compact files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_share.sharing._modules import replace_module
from lit_share.sharing.codebook._layers import CODEBOOKS, with_codebook
from lit_share.sharing.codebook._replaceable import reason_to_stay
from lit_share.sharing.compact._error import CompactFileError
from lit_share.sharing.compact._manifest import Manifest, name_of_part


def codebooks_among(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the modules that are codebook layers, by what they save."""
    return [
        name.removesuffix(".assignment")
        for name, tensor in tensors.items()
        if name.endswith(".assignment")
        and tensor.dtype == torch.int64
        and tensor.ndim == 1
        and _weight(name) in tensors
    ]


def put_codebooks(module: nn.Module, manifest: Manifest) -> None:
    """Put codebook layers, still without values, where the file has them and the module has ordinary layers."""
    for name in manifest.codebooks:
        layer = _layer(module, name)
        inputs, clusters = (
            manifest.tensors[name_of_part(name, part)].shape for part in ("assignment", "weight")
        )
        if isinstance(layer, CODEBOOKS):
            continue
        reason = reason_to_stay(module, layer)
        if reason is not None:
            raise CompactFileError(f"has a codebook for {name!r}, which {reason} in the module")
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        if layer.weight.shape[1:2] != inputs:
            raise CompactFileError(
                f"has a codebook of {inputs[0]} inputs for {name!r}, which is a {layer} in the module"
            )
        if not 0 < clusters[1] <= inputs[0]:
            raise CompactFileError(
                f"is damaged: {name!r} has {clusters[1]} rows for {inputs[0]} inputs"
            )
        replace_module(
            module, layer, with_codebook(layer, torch.arange(inputs[0]).clamp_max(clusters[1] - 1))
        )


def check_assignments(values: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Raise if an input is assigned to a row that there is not."""
    for name in manifest.codebooks:
        assignment, rows = (
            values[name_of_part(name, "assignment")],
            values[name_of_part(name, "weight")].shape[1],
        )
        if not -1 <= int(assignment.min()) <= int(assignment.max()) < rows:
            raise CompactFileError(
                f"is damaged: {name!r} assigns inputs to rows that it does not have"
            )


def _layer(module: nn.Module, name: str) -> nn.Module:
    # Not `get_submodule`, which would read whatever property of the module a file names.
    layers: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    layer = layers.get(name)
    if layer is None:
        raise CompactFileError(f"has a codebook for {name!r}, which the module has not")
    return layer


def _weight(assignment: str) -> str:
    return assignment.removesuffix("assignment") + "weight"
