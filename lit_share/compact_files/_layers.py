"""Replace layers of a module by smaller layers that a compact file stores."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

from lit_share.aliases import has_hooks, replace_module
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._manifest import Manifest, name_of_part
from lit_share.ties import HasClusters, HasPositions

# This package is imported by name: folders of the same floor do not import each other, and only
# files with codebooks need it.
_CODEBOOKS = "lit_share.codebooks"


def codebooks_of(module: nn.Module) -> list[str]:
    """Return the names of the codebook layers of a module."""
    layers = module.named_modules(remove_duplicate=False)
    return [name for name, layer in layers if isinstance(layer, HasClusters)]


def codebooks_among(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of modules whose saved tensors look like those of codebook layers."""
    names = []
    for name, tensor in tensors.items():
        layer, _, attribute = name.rpartition(".")
        if not layer or attribute != "assignment" or f"{layer}.weight" not in tensors:
            continue
        if tensor.dtype == torch.int64 and tensor.ndim == 1:
            names.append(layer)
    return names


def place_layers(module: nn.Module, manifest: Manifest) -> None:
    """Replace ordinary layers by the file's codebook layers and convolutions, without values.

    Raises:
        CompactFileError: If a layer of the module does not fit the layer in the file.
    """
    # `get_submodule` would evaluate any property of the module that a file names.
    layers: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    for name in manifest.codebooks:
        if name not in layers:
            raise CompactFileError(f"has a codebook for {name!r}, which the module has not")
        if not isinstance(layers[name], HasClusters):
            _place_codebook(module, manifest, name, layers[name])
    for name, layer in list(module.named_modules()):
        if isinstance(layer, HasPositions) and layer.reason_to_keep_positions() is None:
            _place_convolution(module, manifest, name, layer)


def check_assignments(values: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Raise `CompactFileError` if an input is assigned to a row that does not exist."""
    for name in manifest.codebooks:
        assignment = values[name_of_part(name, "assignment")]
        rows = values[name_of_part(name, "weight")].shape[1]
        if not -1 <= int(assignment.min()) <= int(assignment.max()) < rows:
            problem = f"{name!r} assigns inputs to rows that it does not have"
            raise CompactFileError(f"is damaged: {problem}")


def _place_codebook(module: nn.Module, manifest: Manifest, name: str, layer: nn.Module) -> None:
    (inputs,) = manifest.tensors[name_of_part(name, "assignment")].shape
    clusters = manifest.tensors[name_of_part(name, "weight")].shape[1]
    if not 0 < clusters <= inputs:
        raise CompactFileError(f"is damaged: {name!r} has {clusters} rows for {inputs} inputs")
    try:
        import_module(_CODEBOOKS).place_codebook(module, layer, inputs, clusters)
    except ValueError as error:
        problem = f"has a codebook of {inputs} inputs for {name!r}, which {error} in the module"
        raise CompactFileError(problem) from None


def _place_convolution(
    module: nn.Module, manifest: Manifest, name: str, layer: HasPositions
) -> None:
    assert isinstance(layer, nn.Module)
    stored = manifest.tensors.get(name_of_part(name, "weight"))
    # A file with a filter for each position fits the layer as it is.
    if stored is None or stored.shape != tuple(layer.weight.shape[1:]):  # type: ignore[index]
        return
    # Hooks are bound to the layer, and would be lost with it.
    if has_hooks(layer):
        raise CompactFileError(
            f"has one filter for all positions of {name!r}, which has hooks in the module"
        )
    replace_module(module, layer, layer.with_one_position(lambda _, p: p[0].clone()))
