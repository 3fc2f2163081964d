"""Which tensors are exactly equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Tensors that differ mostly differ in a few of their elements, so few pairs are compared in full.
_SAMPLE = 32


@torch.no_grad()
def first_equal(tensors: Sequence[Tensor]) -> list[int]:
    """Return, for each tensor, the index of the first tensor that is exactly equal to it.

    0.0 and −0.0 are equal; NaN is equal to nothing, so a tensor with NaN is the first of its own.

    Args:
        tensors: Dense tensors of any shapes, dtypes and devices; dtypes that differ are not equal.

    Returns:
        An index for each tensor, at most its own.

    Example:
        >>> a, b = torch.zeros(3), torch.ones(3)
        >>> first_equal([a, b, a.clone(), b.clone()])
        [0, 1, 0, 1]
    """
    # Each tensor is compared to one of each distinct value, and only to those of its own sample.
    known: dict[object, list[int]] = {}
    first: list[int] = []
    for i, tensor in enumerate(tensors):
        same_sample = known.setdefault(_key(tensor), [])
        for j in same_sample:
            if torch.equal(tensors[j], tensor.to(tensors[j].device)):
                first.append(j)
                break
        else:
            same_sample.append(i)
            first.append(i)
    return first


def _key(tensor: Tensor) -> object:
    """Return a key that equal tensors have in common: their type and some of their elements."""
    spacing = max(1, tensor.numel() // _SAMPLE)
    places = torch.arange(0, tensor.numel(), spacing, device=tensor.device)[:_SAMPLE]
    try:
        # `take` copies no strided tensor, such as a transpose, as a whole.
        sample = tuple(tensor.take(places).tolist())
    except NotImplementedError:
        # Torch lacks it for float8 and uint16, of which all pairs are compared.
        sample = ()
    return tensor.shape, tensor.dtype, sample
