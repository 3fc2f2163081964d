"""Store a tensor with many zeros as a mask, a bit per element, and its non-zero values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._stored import Spec, Stored


class Sparse(Stored):
    """Stored without its zeros."""

    kind: Literal["sparse"] = "sparse"

    @override
    def check(self, earlier: Mapping[str, Stored]) -> None:
        if self.nonzero > self.numel:
            raise ValueError("has more non-zero elements than elements")

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        return sparse_entries(self.dtype, self.numel, self.nonzero)

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        return without_sparsity(entries, self.numel).reshape(self.shape)

    def __str__(self) -> str:
        return f"sparse, {self.nonzero} non-zero"


def sparse_arrays(array: Bits) -> dict[str, Bits]:
    """Return the mask and the non-zero values of an array."""
    flat = array.reshape(-1)
    mask = flat != 0
    return {"mask": np.packbits(mask), "values": flat[mask]}


def sparse_entries(dtype: str, numel: int, nonzero: int) -> dict[str, Spec]:
    """Return dtype and shape of the entries of `sparse_arrays`."""
    # The last byte of the mask may be partly used.
    return {"mask": ("U8", (-(-numel // 8),)), "values": (dtype, (nonzero,))}


def without_sparsity(entries: Mapping[str, Bits], numel: int) -> Bits:
    """Invert `sparse_arrays`, to a single dimension."""
    mask = np.unpackbits(entries["mask"])
    values = entries["values"]
    # A bit that is set in the padding would mark an element that does not exist.
    if np.count_nonzero(mask) != len(values) or mask[numel:].any():
        raise ValueError("its mask does not mark as many elements as there are values")
    array = np.zeros(numel, values.dtype)
    array[mask[:numel].astype(bool)] = values
    return array
