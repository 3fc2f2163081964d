"""Store no bytes for a tensor that equals an earlier tensor or its transpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._hash import hash_either_way
from lit_share.compact_files._stored import Spec, Stored


class Same(Stored):
    """Equal to an earlier tensor, or to its transpose."""

    kind: Literal["same"] = "same"
    of: str
    transposed: bool = False

    @override
    def check(self, earlier: Mapping[str, Stored]) -> None:
        if self.of not in earlier:
            raise ValueError(f"is the same as {self.of!r}, which is not before it")
        other, shape = earlier[self.of], self.shape
        if self.transposed:
            if len(shape) != 2:
                raise ValueError("is transposed, but not a matrix")
            shape = shape[::-1]
        # Decoding returns the earlier array without a further check.
        if (other.dtype, other.shape, other.nonzero) != (self.dtype, shape, self.nonzero):
            differs = "of another shape, dtype or number of non-zero elements"
            raise ValueError(f"is the same as {self.of!r}, but {differs}")

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        return {}

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        array = earlier[self.of]
        return array.T if self.transposed else array

    def __str__(self) -> str:
        return f"same as {self.of}" + ".T" * self.transposed


class SameFinder:
    """Finds an earlier tensor that equals a tensor or its transpose."""

    def __init__(self) -> None:
        self._seen: defaultdict[tuple, list[tuple[str, Bits]]] = defaultdict(list)

    def find_or_add(self, name: str, dtype: str, array: Bits, nonzero: int) -> Same | None:
        """Return how ``array`` equals an earlier tensor, or add it and return ``None``."""
        candidates = self._seen[dtype, array.size, nonzero, hash_either_way(array)]
        views = [array]
        if array.ndim == 2:
            views.append(array.T)
        for view in views:
            for of, other in candidates:
                if other.shape == view.shape and np.array_equal(other, view):
                    same = Same(dtype=dtype, shape=array.shape, nonzero=nonzero, of=of)
                    return same.model_copy(update={"transposed": view is not array})
        candidates.append((name, array))
        return None
