"""Store rows (slices along dim 0) once that earlier tensors have or that occur several times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._sparse import sparse_entries, without_sparsity
from lit_share.compact_files._stored import Count, Sequenced, Spec, Stored


class Rows(Stored):
    """Stored as an index into the rows of the bases, concatenated, followed by own rows.

    Attributes:
        bases: Earlier tensors whose rows have the same dtype and shape.
        own: The number of rows that no base has.
        own_nonzero: The number of non-zero elements in them, if they are stored as sparse.
    """

    kind: Literal["rows"] = "rows"
    bases: Sequenced[str]
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
            other = earlier[base]
            alike = other.dtype == self.dtype and other.shape[1:] == self.shape[1:]
            # A scalar has no rows, although its shape after dim 0 is that of a vector.
            if not alike or not other.shape:
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
        index = entries["index"]
        ends = np.cumsum([len(base) for base in bases], dtype=np.int64)
        # A tensor always has bases or rows of its own, but a damaged file may have neither.
        # NumPy's own message would not say which entry is wrong.
        if not bases or int(index.max()) >= ends[-1]:
            raise ValueError("its index names a row that does not exist")
        if len(bases) == 1:
            only: Bits = bases[0][index]
            return only
        # Bases may be much larger than this tensor, and are not copied to have them in one array.
        array = np.empty(self.shape, bases[0].dtype)
        owners = np.searchsorted(ends, index, side="right")
        order = np.argsort(owners, kind="stable")
        for group in np.split(order, 1 + np.flatnonzero(np.diff(owners[order]))):
            owner = owners[group[0]]
            begin = ends[owner] - len(bases[owner])
            array[group] = bases[owner][index[group].astype(np.int64) - begin]
        return array

    def __str__(self) -> str:
        rows = self.shape[0]
        if not self.bases:
            return f"{self.own} of {rows} rows"
        return f"{rows - self.own} of {rows} rows of {', '.join(self.bases)}"

    def _total(self, earlier: Mapping[str, Stored]) -> int:
        return sum(earlier[base].shape[0] for base in self.bases) + self.own


def index_dtype(total: int) -> np.dtype | None:
    """Return the smallest dtype that can index ``total`` rows, or None if 32 bits are too few."""
    for dtype in map(np.dtype, ("u1", "u2", "u4")):
        if total <= 2 ** (8 * dtype.itemsize):
            return dtype
    return None
