"""Run modules on example inputs: in evaluation mode, with outputs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map, tree_map_only

from lit_share import aliases
from lit_share.aliases import Inputs, evaluating
from lit_share.alignment._errors import AlignError


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a forward, or raise `AlignError`."""
    try:
        return aliases.arguments(inputs)
    except TypeError as error:
        raise AlignError(str(error)) from None


def inputs_by_name(
    names: Sequence[str], inputs: Inputs | Mapping[str, Inputs]
) -> Mapping[str, Inputs]:
    """Return the inputs of each submodule, which are for all of them or a dict by their names.

    Raises:
        AlignError: If a dict by names has no entry of a submodule.
    """
    if not isinstance(inputs, Mapping) or not set(inputs) & set(names):
        return dict.fromkeys(names, inputs)
    missing = [name for name in names if name not in inputs]
    if missing:
        raise AlignError(f"inputs have no entry of the submodule {missing[0]!r}")
    return inputs


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under all of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return dict(chain(parameters, module.named_buffers(remove_duplicate=False)))


def call(module: nn.Module, inputs: Inputs) -> Any:
    """Return what a module returns for a copy of inputs, to which it may write.

    Raises:
        AlignError: If the forward raises an error.
    """
    args, kwargs = tree_map_only(Tensor, torch.clone, arguments(inputs))
    try:
        return module(*args, **kwargs)
    except Exception as error:
        raise AlignError(
            f"{type(module).__name__} cannot be called with these inputs: {error}"
        ) from error


def plain(outputs: Any) -> Any:
    """Return outputs with a dict in place of each dataclass that torch knows nothing of."""

    def opened(leaf: Any) -> Any:
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        return {field.name: plain(getattr(leaf, field.name)) for field in fields(leaf)}

    return tree_map(opened, outputs)


def run(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return copies of a module's outputs in evaluation mode, by names like ``"output[0]"``.

    Args:
        module: Any module.
        inputs: What its forward takes: a tensor, a tuple of arguments or a dict of keywords.

    Raises:
        AlignError: If the forward raises an error.

    Example:
        >>> run(nn.ReLU(), torch.tensor([-1.0, 1.0]))
        {'output': tensor([0., 1.])}
    """
    with evaluating(module):
        outputs = call(module, inputs)
    found, _ = tree_flatten_with_path(plain(outputs))
    return {
        "output" + keystr(path): value.detach().clone()
        for path, value in found
        if isinstance(value, Tensor)
    }


def check_outputs(
    module: nn.Module, before: Mapping[str, Tensor], inputs: Inputs, rtol: float = 1e-4
) -> float:
    r"""Raise an error if a module's outputs are not what they were.

    An output y differs by :math:`\max |y - y'| / \max |y'|` from what it was before.

    Args:
        module: The module as it is now.
        before: What `run` returned before it was changed.
        inputs: The inputs of that call.
        rtol: The largest difference that passes, relative to the largest number of the output.

    Returns:
        The largest difference.

    Raises:
        AlignError: If an output differs by more; the message names the worst one.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = run(layer, torch.ones(1, 2))
        >>> check_outputs(layer, before, torch.ones(1, 2))
        0.0
    """
    after = run(module, inputs)
    if after.keys() != before.keys():
        raise AlignError(f"outputs were {sorted(before)}, and are {sorted(after)}")
    differences = {name: _difference(after[name], before[name]) for name in before}
    if not differences:
        raise AlignError(f"{type(module).__name__} returns no tensor that could be compared")
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= rtol:
        raise AlignError(
            f"{worst} of {type(module).__name__} differs by {differences[worst]:.2g} of its "
            f"largest number, more than rtol={rtol:g}"
        )
    return differences[worst]


def _difference(after: Tensor, before: Tensor) -> float:
    """Return the largest difference relative to the largest number; infinity if shapes differ."""
    if after.shape != before.shape:
        return float("inf")
    if before.numel() == 0 or torch.equal(after, before):
        return 0.0
    wide = torch.promote_types(before.dtype, torch.float64)
    # Numbers that are infinite or NaN in both are equal; in only one of them they differ.
    same = (after == before) | (after.isnan() & before.isnan())
    change = torch.where(same, 0.0, (after.to(wide) - before.to(wide)).abs())
    if change.isnan().any():
        return float("inf")
    size = before.to(wide).abs()
    largest = size[size.isfinite()].max() if size.isfinite().any() else size.new_tensor(1.0)
    return float(change.max() / largest.clamp_min(torch.finfo(torch.float64).tiny))
