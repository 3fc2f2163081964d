"""Store a tensor of few different values as a palette of these, and an index of few bits each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._stored import Count, Spec, Stored
from lit_share.text import counted

# Numbers whose bits are packed at a time, a multiple of 8, so that blocks end at whole bytes.
_BLOCK = 1 << 16


class Palette(Stored):
    """Stored as its different values and, for each number, the position of its value.

    Attributes:
        values: The number of different values.
    """

    kind: Literal["palette"] = "palette"
    values: Count

    @override
    def check(self, earlier: Mapping[str, Stored]) -> None:
        if not 1 <= self.values <= self.numel:
            raise ValueError("has a palette of no values, or of more values than numbers")

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        index = ("U8", (packed_bytes(self.numel, self.values),))
        return {"palette": (self.dtype, (self.values,)), "index": index}

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        palette = entries["palette"]
        array = np.empty(self.numel, palette.dtype)
        for begin, index in _unpacked(entries["index"], self.numel, self.values):
            # NumPy's own message would not say which entry is wrong.
            if int(index.max()) >= self.values:
                raise ValueError("its index names a value that does not exist")
            array[begin : begin + len(index)] = palette[index]
        return array.reshape(self.shape)

    def __str__(self) -> str:
        return f"palette of {counted(self.values, 'value')}"


def palette_arrays(array: Bits) -> dict[str, Bits] | None:
    """Return the arrays of a palette by suffix; ``None`` if they would take no fewer bytes."""
    flat = array.reshape(-1)
    ordered = np.sort(flat)
    palette = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    nbytes = palette.nbytes + packed_bytes(flat.size, len(palette))
    if nbytes >= array.nbytes:
        return None
    return {"palette": palette, "index": _packed(_positions(flat, palette), len(palette))}


def packed_bytes(numel: int, values: int) -> int:
    """Return the bytes of an index into a number of values."""
    return -(-numel * _width(values) // 8)


def _width(values: int) -> int:
    """Return the bits of a position among a number of values."""
    # One value would need none, but then a file of few bytes could demand any amount of memory.
    return max(1, (values - 1).bit_length())


def _packed(index: npt.NDArray[np.integer], values: int) -> Bits:
    """Return the lowest bits of each position, the highest of them first."""
    width, size = _width(values), _size(values)
    blocks: list[Bits] = []
    for begin in range(0, len(index), _BLOCK):
        whole = index[begin : begin + _BLOCK].astype(f">u{size}").view(np.uint8)
        bits = np.unpackbits(whole.reshape(-1, size), axis=1)
        blocks.append(np.packbits(bits[:, -width:]))
    return np.concatenate(blocks)


def _unpacked(packed: Bits, numel: int, values: int) -> Iterator[tuple[int, Bits]]:
    """Invert `_packed`: yield the first number of each block, and the positions."""
    width, size = _width(values), _size(values)
    for begin in range(0, numel, _BLOCK):
        count = min(_BLOCK, numel - begin)
        bits = np.unpackbits(packed[begin * width // 8 : packed_bytes(begin + count, values)])
        # A bit that is set in the padding would be of a number that does not exist.
        if bits[count * width :].any():
            raise ValueError("its index has bits of numbers that do not exist")
        whole = np.zeros((count, 8 * size), np.uint8)
        whole[:, -width:] = bits[: count * width].reshape(count, width)
        yield begin, np.packbits(whole, axis=1).reshape(-1).view(f">u{size}")


def _size(values: int) -> int:
    """Return the bytes of the smallest integer that holds a position among a number of values."""
    width = _width(values)
    return next(size for size in (1, 2, 4, 8) if width <= 8 * size)


def _positions(flat: Bits, palette: Bits) -> npt.NDArray[np.integer]:
    """Return the position of each number in an ascending palette that has it."""
    if flat.itemsize > 2:
        return np.searchsorted(palette, flat)
    # A table of all 65,536 bit patterns is ten times as fast as a search for each number.
    table = np.zeros(1 << 8 * flat.itemsize, np.uint16)
    table[palette] = np.arange(len(palette))
    return table[flat]
