"""Which layers can be replaced by layers with the same outputs."""

from __future__ import annotations

from torch import nn

from lit_share.aliases import has_hooks, shared_with
from lit_share.codebooks._layers import CODEBOOKS, ORDINARY
from lit_share.ties import Ties, parameter_refs

# These modules read the weights of some children in their own `forward`, without calling the
# children, so that the `forward` of a replacement would not run.
_READS_PAST = {nn.TransformerEncoderLayer: ("linear1", "linear2")}


def reason_to_stay(module: nn.Module, layer: nn.Module) -> str | None:
    """Return why a layer cannot be replaced, as the end of a sentence; ``None`` if it can."""
    # A subclass is refused, because its `forward` may compute something else.
    if type(layer) not in (*ORDINARY, *CODEBOOKS):
        return f"is not the weight of a Linear or Conv2d but of a {type(layer).__name__}"
    if getattr(layer, "groups", 1) != 1:
        return f"belongs to a convolution of {layer.groups} groups"
    if has_hooks(layer):
        return "belongs to a layer with hooks, such as those of torch.nn.utils.prune"
    for parent in module.modules():
        for kind, children in _READS_PAST.items():
            read = (parent._modules.get(name) for name in children)
            if isinstance(parent, kind) and any(child is layer for child in read):
                return f"is read by {type(parent).__name__} itself"
    others = shared_with(module, layer)
    return f"is shared with {others}" if others else None


def row_weights(module: nn.Module) -> Ties:
    """Return ties for the weights whose rows can be tied: those of linear layers and convolutions.

    Args:
        module: The module; layers that cannot be replaced, as if they are shared, are excluded.
    """
    others = [
        ref.name
        for ref in parameter_refs(module)
        if ref.attribute == "weight" and reason_to_stay(module, ref.owner) is not None
    ]
    return Ties("*.weight", exclude=others)
