"""Hash arrays and their rows, so that equal ones are found without comparing all pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lit_share.compact_files._bits import Bits

# Rows of so few bytes are numbers themselves, which need no hash.
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
# Elements that are hashed at a time: their 64-bit copy (2 MB) stays in the cache.
_BLOCK = 1 << 18
# Columns that are hashed at a time: the factors of long rows would take twice their memory.
_COLUMNS = 1 << 16

Hashes = npt.NDArray[np.unsignedinteger]


def hash_rows(array: Bits) -> Hashes:
    r"""Hash each row to 64 bits: :math:`\sum_j a_j x_j \bmod 2^{64}` with random odd :math:`a_j`.

    A row of 1, 2, 4 or 8 bytes is its own hash.

    Source:
        Thorup, *High Speed Hashing for Integers and Strings*, 2015, on vectors.
    """
    rows = array.reshape(len(array), -1)
    row_bytes = rows.shape[1] * rows.itemsize
    if row_bytes in _UNSIGNED:
        return rows.view(_UNSIGNED[row_bytes]).reshape(-1)
    # Rows of float64 that differ in two signs would have equal hashes, because 2⁶³ + 2⁶³ = 0.
    if rows.itemsize == 8:
        rows = rows.view(np.uint32)
    return _weighted_sums(rows)


def hash_either_way(array: Bits) -> int:
    r"""Hash an array; a matrix and its transpose have the same hash.

    That of a matrix is :math:`\sum_{ij} a_i a_j X_{ij} \bmod 2^{64}` with the :math:`a_i` of
    `hash_rows`. Other arrays are hashed as matrices of a fixed number of columns.
    """
    if array.ndim == 2 and 1 not in array.shape:
        matrices = [array]
    else:
        flat = array.reshape(-1)
        whole = len(flat) - len(flat) % _COLUMNS
        matrices = [flat[:whole].reshape(-1, _COLUMNS), flat[None, whole:]]
    if array.itemsize == 8:
        halves = [matrix.view(np.uint32) for matrix in matrices]
        matrices = [half[:, i::2] for half in halves for i in (0, 1)]
    return hash(tuple(int(_weighted_sums(m) @ _factors(len(m))) for m in matrices))


def _weighted_sums(rows: Bits) -> npt.NDArray[np.uint64]:
    sums = np.zeros(len(rows), np.uint64)
    for begin in range(0, rows.shape[1], _COLUMNS):
        columns = rows[:, begin : begin + _COLUMNS]
        factors = _chunk_of_factors(begin, columns.shape[1])
        step = max(1, _BLOCK // columns.shape[1])
        for i in range(0, len(rows), step):
            sums[i : i + step] += columns[i : i + step].astype(np.uint64) @ factors
    return sums


def _factors(count: int) -> npt.NDArray[np.uint64]:
    begins = range(0, count, _COLUMNS)
    chunks = [_chunk_of_factors(begin, min(_COLUMNS, count - begin)) for begin in begins]
    return np.concatenate([np.empty(0, np.uint64), *chunks])


def _chunk_of_factors(begin: int, count: int) -> npt.NDArray[np.uint64]:
    drawn = np.random.default_rng(begin).integers(0, 2**64, count, np.uint64)
    factors: npt.NDArray[np.uint64] = drawn | np.uint64(1)
    return factors
