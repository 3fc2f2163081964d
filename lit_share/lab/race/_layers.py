"""Find the layers that are tied: what a race unties together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from lit_share.ties import Tie


def layers_of(ties: Sequence[Tie]) -> dict[str, list[str]]:
    """Return the tied layers, those with the fewest numbers first, and how each is excluded.

    A layer is a module that owns parameters: its weight and its bias are tied or untied together.

    Args:
        ties: The ties that were found in a module.

    Returns:
        For each layer, named by the module of the first member, the patterns for `Ties(exclude=)`.

    Example:
        >>> from torch import nn
        >>> from lit_share.ties import Ties
        >>> def mlp():
        ...     return nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 2))
        >>> layers_of(Ties("a.*", "b.*").find(nn.ModuleDict({"a": mlp(), "b": mlp()})))
        {'a.1': ['a.1.*'], 'a.0': ['a.0.*']}
    """
    names: dict[str, set[str]] = defaultdict(set)
    sizes: Counter[str] = Counter()
    for tie in ties:
        names[tie.layer].add(tie.members[0].ref.name)
        sizes[tie.layer] += tie.numel
    every = set().union(*names.values())
    excluded = {}
    # Among equally good layers, a race unties the first: the model stays small.
    for layer in sorted(names, key=lambda layer: sizes[layer]):
        excluded[layer] = sorted(names[layer])
        # Modules may have both parameters and submodules, which are other layers.
        if {name for name in every if name.startswith(f"{layer}.")} == names[layer]:
            excluded[layer] = [f"{layer}.*"]
    return excluded
