"""Finding rows that are equal: by a hash of each, which is checked afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._rows import Rows, index_dtype
from lit_share.compact_files._sparse import sparse_arrays

_MOST_BASES = 4
_BLOCK = 1 << 18  # elements that are hashed at a time: their temporary copy stays in the cache

Way = tuple[Rows, dict[str, Bits]]


@dataclass
class _Known:
    """The distinct rows, of one dtype and shape, of the tensors so far, each in the tensor that had it first."""

    names: list[str] = field(default_factory=list)
    arrays: list[Bits] = field(default_factory=list)
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    owners: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, name: str, array: Bits, hashes: npt.NDArray[np.uint64]) -> None:
        """Add the rows of a tensor."""
        both = np.concatenate([self.hashes, hashes])
        owners = np.concatenate([self.owners, np.full(len(hashes), len(self.names))])
        rows = np.concatenate([self.rows, np.arange(len(hashes))])
        self.hashes, first = np.unique(both, return_index=True)
        self.owners, self.rows = owners[first], rows[first]
        self.names.append(name)
        self.arrays.append(array)

    def find(
        self, hashes: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The tensor that has a row with this hash (−1 where none has), and which row it is."""
        if not len(self.hashes):
            return np.full(len(hashes), -1), np.zeros(len(hashes), np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.owners[at], -1), self.rows[at]


class RowFinder:
    """Remembers the rows of tensors, and finds among them those of another one."""

    def __init__(self) -> None:
        self._known: dict[tuple, _Known] = {}

    def find_and_add(self, name: str, dtype: str, array: Bits, nonzero: int) -> Iterator[Way]:
        """Ways to store ``array`` by its rows, with none, one and up to four of the tensors before it as bases."""
        if array.ndim == 0 or array.size == 0:
            return
        hashes = hash_rows(array)
        distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        known = self._known.setdefault((dtype, array.shape[1:]), _Known())
        owners, rows = known.find(distinct)
        used, shared = np.unique(owners[owners >= 0], return_counts=True)
        most = used[np.argsort(-shared, kind="stable")][:_MOST_BASES]
        for bases in (most[:count] for count in range(len(most) + 1)):
            own = ~np.isin(owners, bases)
            if own.sum() == len(array):
                continue  # nothing is shared
            own_rows = np.sort(first[own])
            index = np.searchsorted(own_rows, first)
            start = 0
            for base in bases:
                index[owners == base] = start + rows[owners == base]
                start += len(known.arrays[base])
            index[own] += start
            pool = np.concatenate([*(known.arrays[base] for base in bases), array[own_rows]])
            # Different rows may have one hash.
            if np.array_equal(pool[index[inverse]], array):
                names = tuple(known.names[base] for base in bases)
                stored = Rows(
                    dtype=dtype, shape=array.shape, nonzero=nonzero, bases=names, own=len(own_rows)
                )
                yield from _ways(stored, index[inverse], pool[start:], len(pool))
        known.add(name, array, hashes)


def _ways(stored: Rows, index: npt.NDArray[np.int64], own: Bits, total: int) -> Iterator[Way]:
    """With the tensor's own rows as they are, and without their zeros."""
    dtype = index_dtype(total)
    if dtype is None:
        return
    entries = {"index": index.astype(dtype)}
    yield stored, entries | ({"rows": own} if len(own) else {})
    own_nonzero = int(np.count_nonzero(own))
    if own_nonzero < own.size:
        yield stored.model_copy(update={"own_nonzero": own_nonzero}), entries | sparse_arrays(own)


def hash_rows(array: Bits) -> npt.NDArray[np.uint64]:
    r"""A 64-bit hash of each row: :math:`\sum_j a_j x_j \bmod 2^{64}` with random odd :math:`a_j`.

    Source:
        Thorup, *High Speed Hashing for Integers and Strings*, 2015, on vectors.
    """
    rows = array.reshape(len(array), -1)
    if rows.itemsize == 8:
        rows = rows.view(np.uint32)  # else two signs that differ would cancel, as 2⁶³ + 2⁶³ = 0
    factors = np.random.default_rng(0).integers(0, 2**64, rows.shape[1], np.uint64) | np.uint64(1)
    at_a_time = max(1, _BLOCK // rows.shape[1])
    return np.concatenate(
        [
            rows[i : i + at_a_time].astype(np.uint64) @ factors
            for i in range(0, len(rows), at_a_time)
        ]
    )
