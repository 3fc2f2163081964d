"""Find equal rows by their hashes, and verify them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._hash import Hashes, hash_rows
from lit_share.compact_files._rows import Rows, index_dtype
from lit_share.compact_files._sparse import sparse_arrays

_MAX_BASES = 4

Way = tuple[Rows, dict[str, Bits]]
_Indices = npt.NDArray[np.integer]
# Distinct hashes in ascending order, with the indices of the tensor and of the row of each.
_Run = tuple[Hashes, _Indices, _Indices]


@dataclass
class _Known:
    """Distinct rows of one dtype and shape, each with the earliest tensor that has it.

    They are in sorted runs, each at least twice as long as the next: a tensor is compared with few
    runs, and a row is merged into a longer run only a few times.
    """

    names: list[str] = field(default_factory=list)
    arrays: list[Bits] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)

    def add(self, name: str, array: Bits, hashes: Hashes, rows: _Indices) -> None:
        """Add a tensor, and the rows that no earlier tensor has, in the order of their hashes."""
        owners = np.full(len(hashes), len(self.names), np.int32)
        run: _Run = hashes, owners, rows.astype(np.uint32)
        self.names.append(name)
        self.arrays.append(array)
        while self.runs and len(self.runs[-1][0]) < 2 * len(run[0]):
            earlier = self.runs.pop()
            # The stable sort of NumPy recognises sorted runs, and merges them in one pass.
            order = np.argsort(np.concatenate([earlier[0], run[0]]), kind="stable")
            both = [np.concatenate(columns)[order] for columns in zip(earlier, run, strict=True)]
            run = both[0], both[1], both[2]
        if len(run[0]):
            self.runs.append(run)

    def find(self, hashes: Hashes) -> tuple[_Indices, _Indices]:
        """Return for each hash the indices of a tensor that has it (−1 if none) and of its row."""
        owners, rows = np.full(len(hashes), -1, np.int32), np.zeros(len(hashes), np.uint32)
        for known, their_owners, their_rows in self.runs:
            at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            found = known[at] == hashes
            owners[found], rows[found] = their_owners[at[found]], their_rows[at[found]]
        return owners, rows


class RowFinder:
    """Finds rows of a tensor in earlier tensors."""

    def __init__(self) -> None:
        # By dtype and shape of a row: other rows cannot be equal.
        self._known: dict[tuple, _Known] = {}

    def find_and_add(self, name: str, dtype: str, array: Bits, nonzero: int) -> Iterator[Way]:
        """Yield ways to store ``array`` by rows, on zero to four earlier tensors, then add it."""
        if array.ndim == 0 or array.size == 0:
            return
        # Where an index takes as many bytes as a row, nothing can be saved. That holds for whoever
        # has this tensor as a base, too, as the index chooses among all of its rows.
        row_bytes = array.nbytes // len(array)
        is_base = _index_bytes(len(array)) < row_bytes
        if _index_bytes(1) >= row_bytes:
            return
        hashes = hash_rows(array)
        if not is_base and _index_bytes(_distinct(hashes)) >= row_bytes:
            return
        order = np.argsort(hashes)
        ordered = hashes[order]
        starts = np.append(True, ordered[1:] != ordered[:-1])
        distinct, first = ordered[starts], np.minimum.reduceat(order, np.flatnonzero(starts))
        known = self._known.setdefault((dtype, array.shape[1:]), _Known())
        owners, rows = known.find(distinct)
        new = owners < 0
        if not new.all() or len(distinct) < len(array):
            inverse = np.empty(len(array), np.int64)
            inverse[order] = np.cumsum(starts) - 1
            # Different rows may have the same hash: then no way is offered, or not this base.
            if np.array_equal(array[first][inverse], array):
                _leave_out_unequal(owners, rows, known, array, first)
                stored = Rows(dtype=dtype, shape=array.shape, nonzero=nonzero, bases=(), own=0)
                yield from _ways(stored, known, array, (owners, rows, first, inverse))
        if is_base:
            known.add(name, array, distinct[new], first[new])


def _leave_out_unequal(
    owners: _Indices, rows: _Indices, known: _Known, array: Bits, first: _Indices
) -> None:
    """Set the owners to −1 whose rows are not those of ``array``, whatever their hashes say."""
    for owner in np.unique(owners[owners >= 0]):
        its = owners == owner
        if not np.array_equal(known.arrays[owner][rows[its]], array[first[its]]):
            owners[its] = -1


def _ways(
    stored: Rows,
    known: _Known,
    array: Bits,
    found: tuple[_Indices, _Indices, _Indices, _Indices],
) -> Iterator[Way]:
    owners, rows, first, inverse = found
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
            index[owners == base] = start + rows[owners == base].astype(np.int64)
            start += len(known.arrays[base])
        index[own] += start
        names = tuple(known.names[base] for base in bases)
        chosen = stored.model_copy(update={"bases": names, "own": len(own_rows)})
        yield from _encoded(chosen, index[inverse], array[own_rows], start + len(own_rows))


def _encoded(stored: Rows, index: _Indices, own: Bits, total: int) -> Iterator[Way]:
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


def _index_bytes(total: int) -> int:
    """Return the bytes by which each row is chosen among ``total`` rows."""
    dtype = index_dtype(total)
    if dtype is None:
        return 8
    return dtype.itemsize


def _distinct(hashes: Hashes) -> int:
    ordered = np.sort(hashes)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
