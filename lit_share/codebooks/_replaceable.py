"""Which layers can be replaced by others of the same outputs."""

from __future__ import annotations

from torch import nn

from lit_share.aliases import has_hooks, shared_with
from lit_share.codebooks._layers import CODEBOOKS
from lit_share.ties import Ties, parameter_refs

_ORDINARY = (nn.Linear, nn.Conv2d)
# Modules whose `forward` reads the weights of these children past the children's own.
_READS_PAST = {nn.TransformerEncoderLayer: ("linear1", "linear2")}


def reason_to_stay(module: nn.Module, layer: nn.Module) -> str | None:
    """Say why a layer cannot be replaced, as the end of a sentence; ``None`` if it can."""
    if type(layer) not in (*_ORDINARY, *CODEBOOKS):
        return f"is not the weight of a Linear or Conv2d but of a {type(layer).__name__}"
    if getattr(layer, "groups", 1) != 1:
        return f"belongs to a convolution of {layer.groups} groups"
    if has_hooks(layer):
        return "belongs to a layer with hooks, such as those of torch.nn.utils.prune"
    for parent in module.modules():
        for kind, children in _READS_PAST.items():
            if isinstance(parent, kind) and any(
                parent._modules.get(name) is layer for name in children
            ):
                return f"is read by {type(parent).__name__} itself"
    others = shared_with(module, layer)
    return f"is shared with {others}" if others else None


def row_weights(module: nn.Module) -> Ties:
    """Return the weights that have rows to be tied: of linear layers and convolutions.

    Args:
        module: The module; what its layers share, or other code reads, is excluded.
    """
    others = [
        ref.name
        for ref in parameter_refs(module)
        if ref.attribute == "weight" and reason_to_stay(module, ref.owner) is not None
    ]
    return Ties("*.weight", exclude=others)
