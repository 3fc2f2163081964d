"""Convolutions in compact files that were locally connected layers."""

from __future__ import annotations

from torch import nn

from lit_share.sharing._modules import has_hooks, replace_module
from lit_share.sharing.compact._error import CompactFileError
from lit_share.sharing.compact._manifest import Manifest, name_of_part
from lit_share.sharing.positions._layers import LOCAL_LAYERS


def put_convolutions(module: nn.Module, manifest: Manifest) -> None:
    """Put convolutions, still without values, where the file has one filter for all positions of a layer."""
    for name, layer in list(module.named_modules()):
        stored = manifest.tensors.get(name_of_part(name, "weight"))
        if type(layer) not in LOCAL_LAYERS or stored is None:
            continue
        assert isinstance(layer, LOCAL_LAYERS)
        if stored.shape == tuple(layer.weight.shape[1:]):
            if has_hooks(layer):
                raise CompactFileError(
                    f"has one filter for all positions of {name!r}, which has hooks in the module"
                )
            replace_module(module, layer, layer.convolution_of(lambda _, p: p[0].clone()))
