"""A tensor that is equal to an earlier one, or to its transpose: it takes no bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import numpy as np
from typing_extensions import override

from lit_share.compact_files._bits import Bits
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
        other = earlier[self.of]
        if self.transposed and len(self.shape) != 2:
            raise ValueError("is transposed, but not a matrix")
        shape = self.shape[::-1] if self.transposed else self.shape
        if (other.dtype, other.shape, other.nonzero) != (self.dtype, shape, self.nonzero):
            raise ValueError(
                f"is the same as {self.of!r}, but of another shape, dtype or number of non-zero elements"
            )

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        return {}

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        return earlier[self.of].T if self.transposed else earlier[self.of]

    def __str__(self) -> str:
        return f"same as {self.of}{'.T' if self.transposed else ''}"


class SameFinder:
    """Remembers tensors, and finds among them one that is equal."""

    def __init__(self) -> None:
        self._seen: defaultdict[tuple, list[tuple[str, Bits]]] = defaultdict(list)

    def find_or_add(self, name: str, dtype: str, array: Bits, nonzero: int) -> Same | None:
        """How to store ``array`` as an earlier tensor; where there is none, it is remembered for later ones."""
        # A sum does not depend on the order of the elements, so a transposed tensor has the same key.
        alike = self._seen[dtype, array.size, nonzero, int(array.sum(dtype=np.uint64))]
        for transposed in (False, True) if array.ndim == 2 else (False,):
            turned = array.T if transposed else array
            for other_name, other in alike:
                if other.shape == turned.shape and np.array_equal(other, turned):
                    return Same(
                        dtype=dtype,
                        shape=array.shape,
                        nonzero=nonzero,
                        of=other_name,
                        transposed=transposed,
                    )
        alike.append((name, array))
        return None
