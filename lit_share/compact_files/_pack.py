"""Convert tensors to the entries of a compact file, in as few bytes as possible, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lit_share.compact_files._bits import CODES, Bits, bits, check_tensor, checksum, tensor_of
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._find_rows import RowFinder
from lit_share.compact_files._layout import layout
from lit_share.compact_files._manifest import AnyStored, Manifest, RecordedTie, first_problem
from lit_share.compact_files._own import Own
from lit_share.compact_files._palette import Palette, palette_arrays
from lit_share.compact_files._same import SameFinder
from lit_share.compact_files._sparse import Sparse, sparse_arrays
from lit_share.compact_files._ties import check_ties

Way = tuple[AnyStored, Mapping[str, Bits]]

# Name, dtype, shape, offsets and checksum of an entry take about this many bytes in the header.
_BYTES_PER_ENTRY = 128


@dataclass(frozen=True)
class Packed:
    """The content of a compact file."""

    entries: dict[str, Tensor]
    manifest: Manifest

    @property
    def nbytes(self) -> int:
        """The bytes of all entries."""
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def bytes_by_tensor(self) -> dict[str, int]:
        """The bytes of each tensor's own entries, without those of the tensors it refers to."""
        nbytes = dict.fromkeys(self.manifest.tensors, 0)
        for entry in layout(self.manifest.tensors):
            nbytes[entry.tensor] += self.entries[entry.name].nbytes
        return nbytes


def pack(
    tensors: Mapping[str, Tensor],
    ties: Iterable[Mapping[str, Any]] = (),
    codebooks: Iterable[str] = (),
) -> Packed:
    """Store each tensor in the way that takes the fewest bytes.

    Args:
        tensors: Tensors by name, of any shapes, on any device.
        ties: The tensors that are the same parameter: dictionaries with ``names``.
        codebooks: The names of modules that are codebook layers.

    Returns:
        The content of a compact file. Its entries may share memory with the tensors.

    Raises:
        CompactFileError: If a compact file cannot hold a tensor, or the ties do not fit.

    Example:
        >>> import torch
        >>> a, b = torch.ones(100, 100), torch.ones(100, 100)
        >>> b[0, 0] = 0
        >>> packed = pack({"a": a, "a_again": a, "a_but_one": b})
        >>> packed.nbytes < a.nbytes
        True
        >>> torch.equal(unpack(packed)["a_but_one"], b)
        True
    """
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    arrays = {name: bits(tensor) for name, tensor in tensors.items()}
    same, rows = SameFinder(), RowFinder()
    stored: dict[str, AnyStored] = {}
    encoded: dict[str, Mapping[str, Bits]] = {}
    for name, array in arrays.items():
        dtype = CODES[tensors[name].dtype]
        # `min` returns the first of equally small ways, and the simplest comes first.
        stored[name], encoded[name] = min(_ways(name, dtype, array, same, rows), key=_cost)
    entries = {e.name: tensor_of(encoded[e.tensor][e.suffix], e.spec[0]) for e in layout(stored)}
    sums = {name: checksum(entry) for name, entry in entries.items()}
    try:
        # Ties come from checkpoints and callbacks, with lists for tuples, so this is not strict.
        recorded = tuple(RecordedTie.model_validate(tie, strict=False) for tie in ties)
        layers = tuple(codebooks)
        manifest = Manifest(tensors=stored, ties=recorded, codebooks=layers, checksums=sums)
        check_ties(recorded, arrays)
    except ValueError as error:
        raise CompactFileError(f"the ties do not fit the tensors: {first_problem(error)}") from None
    return Packed(entries, manifest)


def unpack(packed: Packed) -> dict[str, Tensor]:
    """Invert `pack`, bit for bit.

    A manifest can describe tensors that are much larger than the file: check the shapes first if
    the file comes from somebody else.

    Args:
        packed: The result of `pack` or `read`.

    Returns:
        The tensors, which may share memory with the entries and with each other.

    Raises:
        CompactFileError: If the entries contradict the manifest.
    """
    tensors, _ = decode(packed)
    return tensors


def decode(packed: Packed) -> tuple[dict[str, Tensor], list[RecordedTie]]:
    """Return the tensors as `unpack` does, and the ties that do not follow from earlier ones."""
    manifest = packed.manifest
    entries: dict[str, dict[str, Bits]] = {name: {} for name in manifest.tensors}
    for entry in layout(manifest.tensors):
        entries[entry.tensor][entry.suffix] = bits(packed.entries[entry.name])
    arrays: dict[str, Bits] = {}
    counts: dict[tuple[int, int], int] = {}
    # Tensors refer to earlier tensors only, which are decoded by then.
    for name, stored in manifest.tensors.items():
        try:
            arrays[name] = stored.decode(entries[name], arrays)
        except ValueError as error:
            raise CompactFileError(f"has a broken {name!r}: {error}") from None
        # A manifest of few bytes can name an array many times, which is counted only once.
        memory = arrays[name].ctypes.data, arrays[name].size
        if memory not in counts:
            counts[memory] = int(np.count_nonzero(arrays[name]))
        if counts[memory] != stored.nonzero:
            problem = f"not {stored.nonzero} elements are other than zero"
            raise CompactFileError(f"has a broken {name!r}: {problem}")
    try:
        ties = check_ties(manifest.ties, arrays)
    except ValueError as error:
        raise CompactFileError(f"is damaged: {error}") from None
    dtypes = {name: stored.dtype for name, stored in manifest.tensors.items()}
    return {name: tensor_of(array, dtypes[name]) for name, array in arrays.items()}, ties


def _ways(name: str, dtype: str, array: Bits, same: SameFinder, rows: RowFinder) -> Iterator[Way]:
    """Yield the ways to store an array, each with its arrays by suffix.

    Unless it equals an earlier array, add it to ``same`` and ``rows`` for later ones to refer to.
    """
    nonzero = int(np.count_nonzero(array))
    yield Own(dtype=dtype, shape=array.shape, nonzero=nonzero), {"": array}
    if not array.size:
        return
    # No other way can take fewer bytes than none, so the rows are not even hashed.
    found = same.find_or_add(name, dtype, array, nonzero)
    if found is not None:
        yield found, {}
        return
    if nonzero < array.size:
        yield Sparse(dtype=dtype, shape=array.shape, nonzero=nonzero), sparse_arrays(array)
    yield from rows.find_and_add(name, dtype, array, nonzero)
    palette = palette_arrays(array)
    if palette is not None:
        values = len(palette["palette"])
        yield Palette(dtype=dtype, shape=array.shape, nonzero=nonzero, values=values), palette


def _cost(way: Way) -> int:
    return sum(array.nbytes + _BYTES_PER_ENTRY for array in way[1].values())
