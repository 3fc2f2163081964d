"""A tensor of which some rows (slices along dim 0) are rows of earlier tensors, or occur in it several times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._sparse import sparse_entries, without_sparsity
from lit_share.compact_files._stored import Count, Spec, Stored


class Rows(Stored):
    """Stored as an index into rows: those of the bases, one base after the other, then the tensor's own.

    Attributes:
        bases: Earlier tensors, of the same dtype and shape of a row.
        own: Number of rows that no base has.
        own_nonzero: Number of non-zero elements in them, if they are stored as sparse.
    """

    kind: Literal["rows"] = "rows"
    bases: tuple[str, ...]
    own: Count
    own_nonzero: Count | None = None

    @override
    def check(self, earlier: Mapping[str, Stored]) -> None:
        if not self.shape or not self.numel:
            raise ValueError("has no rows to be stored once")
        if len(set(self.bases)) < len(self.bases):
            raise ValueError("has a base twice")
        for base in self.bases:
            if base not in earlier:
                raise ValueError(f"has rows of {base!r}, which is not before it")
            if (earlier[base].dtype, earlier[base].shape[1:]) != (
                self.dtype,
                self.shape[1:],
            ) or not earlier[base].shape:
                raise ValueError(f"has rows of {base!r}, whose rows are of another shape or dtype")
        if self.own > self.shape[0]:
            raise ValueError("has more rows of its own than rows")
        if index_dtype(self._total(earlier)) is None:
            raise ValueError("has more rows to choose from than there can be")

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        index = index_dtype(self._total(earlier))
        assert index is not None
        specs: dict[str, Spec] = {"index": (f"U{8 * index.itemsize}", self.shape[:1])}
        if not self.own:
            return specs
        own = (self.own, *self.shape[1:])
        if self.own_nonzero is not None:
            return specs | sparse_entries(self.dtype, math.prod(own), self.own_nonzero)
        return specs | {"rows": (self.dtype, own)}

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        bases = [earlier[base] for base in self.bases]
        if self.own and self.own_nonzero is None:
            bases.append(entries["rows"])
        elif self.own:
            own = (self.own, *self.shape[1:])
            bases.append(without_sparsity(entries, math.prod(own)).reshape(own))
        rows = np.concatenate(bases) if bases else np.empty(0)
        if int(entries["index"].max()) >= len(rows):
            raise ValueError("its index names a row that does not exist")
        array: Bits = rows[entries["index"]]
        return array

    def __str__(self) -> str:
        shared = f"{self.shape[0] - self.own} of {self.shape[0]} rows"
        return (
            f"{shared} of {', '.join(self.bases)}"
            if self.bases
            else f"{self.own} of {self.shape[0]} rows"
        )

    def _total(self, earlier: Mapping[str, Stored]) -> int:
        return sum(earlier[base].shape[0] for base in self.bases) + self.own


def index_dtype(total: int) -> np.dtype | None:
    """The smallest dtype that counts ``total`` rows."""
    for dtype in map(np.dtype, ("u1", "u2", "u4")):
        if total <= 2 ** (8 * dtype.itemsize):
            return dtype
    return None
