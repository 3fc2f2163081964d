"""Find equal rows by their hashes, and verify them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._rows import Rows, index_dtype
from lit_share.compact_files._sparse import sparse_arrays

_MAX_BASES = 4
# Elements that are hashed at a time: their 64-bit copy (2 MB) stays in the cache.
_BLOCK = 1 << 18

Way = tuple[Rows, dict[str, Bits]]
_Hashes = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.int64]


@dataclass
class _Known:
    """Distinct rows of one dtype and shape, each with the earliest tensor that has it."""

    names: list[str] = field(default_factory=list)
    arrays: list[Bits] = field(default_factory=list)
    hashes: _Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    owners: _Indices = field(default_factory=lambda: np.empty(0, np.int64))
    rows: _Indices = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, name: str, array: Bits, hashes: _Hashes) -> None:
        both = np.concatenate([self.hashes, hashes])
        owners = np.concatenate([self.owners, np.full(len(hashes), len(self.names))])
        rows = np.concatenate([self.rows, np.arange(len(hashes))])
        # `unique` sorts, as the binary search of `find` needs, and keeps the earliest occurrence.
        self.hashes, first = np.unique(both, return_index=True)
        self.owners, self.rows = owners[first], rows[first]
        self.names.append(name)
        self.arrays.append(array)

    def find(self, hashes: _Hashes) -> tuple[_Indices, _Indices]:
        """Return for each hash the indices of a tensor that has it (−1 if none) and of its row."""
        if not len(self.hashes):
            return np.full(len(hashes), -1), np.zeros(len(hashes), np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.owners[at], -1), self.rows[at]


class RowFinder:
    """Finds rows of a tensor in earlier tensors."""

    def __init__(self) -> None:
        # By dtype and shape of a row: other rows cannot be equal.
        self._known: dict[tuple, _Known] = {}

    def find_and_add(self, name: str, dtype: str, array: Bits, nonzero: int) -> Iterator[Way]:
        """Yield ways to store ``array`` by rows, on zero to four earlier tensors, then add it."""
        if array.ndim == 0 or array.size == 0:
            return
        hashes = hash_rows(array)
        distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        known = self._known.setdefault((dtype, array.shape[1:]), _Known())
        owners, rows = known.find(distinct)
        used, shared = np.unique(owners[owners >= 0], return_counts=True)
        # Tensors that share many rows come first: each further base makes the index larger.
        best = used[np.argsort(-shared, kind="stable")][:_MAX_BASES]
        for count in range(len(best) + 1):
            bases = best[:count]
            own = ~np.isin(owners, bases)
            # All rows are distinct and in no base, so an index would save nothing.
            if own.sum() == len(array):
                continue
            own_rows = np.sort(first[own])
            index = np.searchsorted(own_rows, first)
            start = 0
            for base in bases:
                index[owners == base] = start + rows[owners == base]
                start += len(known.arrays[base])
            index[own] += start
            pool = np.concatenate([*(known.arrays[base] for base in bases), array[own_rows]])
            # Different rows may have the same hash: then this way is not offered.
            if np.array_equal(pool[index[inverse]], array):
                names = tuple(known.names[base] for base in bases)
                stored = Rows(
                    dtype=dtype, shape=array.shape, nonzero=nonzero, bases=names, own=len(own_rows)
                )
                yield from _ways(stored, index[inverse], pool[start:], len(pool))
        known.add(name, array, hashes)


def _ways(stored: Rows, index: _Indices, own: Bits, total: int) -> Iterator[Way]:
    dtype = index_dtype(total)
    if dtype is None:
        return
    indexed = {"index": index.astype(dtype)}
    # An entry without rows would still take bytes in the header.
    entries = {"rows": own} if len(own) else {}
    yield stored, indexed | entries
    # The tensor's own rows may be sparse in turn.
    own_nonzero = int(np.count_nonzero(own))
    if own_nonzero < own.size:
        yield stored.model_copy(update={"own_nonzero": own_nonzero}), indexed | sparse_arrays(own)


def hash_rows(array: Bits) -> _Hashes:
    r"""Hash each row to 64 bits: :math:`\sum_j a_j x_j \bmod 2^{64}` with random odd :math:`a_j`.

    Source:
        Thorup, *High Speed Hashing for Integers and Strings*, 2015, on vectors.
    """
    rows = array.reshape(len(array), -1)
    # Rows of float64 that differ in two signs would have equal hashes, because 2⁶³ + 2⁶³ = 0.
    if rows.itemsize == 8:
        rows = rows.view(np.uint32)
    factors = np.random.default_rng(0).integers(0, 2**64, rows.shape[1], np.uint64) | np.uint64(1)
    step = max(1, _BLOCK // rows.shape[1])
    blocks = (rows[i : i + step] for i in range(0, len(rows), step))
    return np.concatenate([block.astype(np.uint64) @ factors for block in blocks])
