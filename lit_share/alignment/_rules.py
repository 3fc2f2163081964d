"""The table from operations to rules."""

from __future__ import annotations

from lit_share.alignment import (
    _attention,
    _contractions,
    _elementwise,
    _layers,
    _recurrent,
    _reductions,
    _shapes,
    _slices,
)
from lit_share.alignment._call import RULES, Rule
from lit_share.alignment._elementwise import pointwise

# Importing a file registers its rules.
FILES = (
    _attention, _contractions, _elementwise, _layers, _recurrent, _reductions, _shapes,
    _slices,
)  # fmt: skip


def find_rule(name: str, is_pointwise: bool) -> Rule | None:
    """Return the rule of an operation, or ``None`` if it has none.

    Args:
        name: The operation without ``aten.``, overload and in-place mark.
        is_pointwise: Whether torch says that it acts on each number by itself.
    """
    return RULES.get(name) or (pointwise if is_pointwise else None)
