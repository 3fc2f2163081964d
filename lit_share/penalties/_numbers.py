"""Numbers of NumPy and torch as numbers of Python."""

from __future__ import annotations

from typing import Any


def plain_number(name: str, value: Any) -> Any:
    """Return the Python number of a scalar of NumPy or torch, and anything else as it is.

    Raises:
        TypeError: If the scalar requires a gradient, which a penalty does not give it.
    """
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} requires a gradient, and would not be trained: write "
            "strength=lit_share.Learned(), which learns it from validation data, or detach it"
        )
    return value.item()
