"""Saving and loading modules as compact files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_share.aliases import aliases_from_data, aliases_to_data
from lit_share.compact_files._bits import CODES, DTYPES, bits, check_tensor
from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._file import PathLike, naming, read, write
from lit_share.compact_files._layers import check_assignments, codebooks_of, place_layers
from lit_share.compact_files._manifest import Manifest
from lit_share.compact_files._pack import Packed, pack, unpack
from lit_share.compact_files._ties import saved_ties
from lit_share.ties import unwrapped, unwrapped_name

_SHOWN = 3


def save_compact(module: nn.Module, path: PathLike) -> None:
    """Save a module's parameters and buffers, with each number that occurs several times stored once.

    The file is a safetensors file; what is equal to nothing else is in it under its own name. No pickle is involved.
    What is equal, bit for bit, to another tensor, to its transpose or to some of its rows is not stored again, and
    neither are zeros where there are many. The ties between parameters are recorded in it, too.

    Args:
        module: The module.
        path: The file, by custom ``*.safetensors``; one that exists is replaced when all is written.

    Raises:
        CompactFileError: If there is something that a compact file cannot hold: entries of the state dict that are
            not tensors, sharded, sparse, quantized or meta tensors, or dtypes that safetensors lacks.
        OSError: If the file cannot be written; one that was there before is then as it was.

    Example:
        >>> import tempfile
        >>> pair = nn.ModuleDict({"a": nn.Linear(30, 20), "b": nn.Linear(30, 20)})
        >>> pair["b"].weight = pair["a"].weight
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_compact(pair, f"{folder}/pair.safetensors")
        ...     fresh = nn.ModuleDict({"a": nn.Linear(30, 20), "b": nn.Linear(30, 20)})
        ...     _ = load_compact(f"{folder}/pair.safetensors", fresh)
        >>> fresh["b"].weight is fresh["a"].weight, torch.equal(fresh["b"].weight, pair["a"].weight)
        (True, True)
    """
    write(_packed(module), path)


def compact_bytes(module: nn.Module) -> int:
    """The bytes that the numbers of a module take in a compact file; the header comes on top.

    Args:
        module: The module.

    Returns:
        The size of the data section of the file that `save_compact` would write.

    Raises:
        CompactFileError: As `save_compact`.

    Example:
        >>> pair = nn.ModuleDict({"a": nn.Linear(30, 20), "b": nn.Linear(30, 20)})
        >>> compact_bytes(pair) == 2 * 4 * (30 * 20 + 20)
        True
        >>> pair["b"].weight = pair["a"].weight
        >>> compact_bytes(pair) == 4 * (30 * 20 + 20 + 20)
        True
    """
    return _packed(module).nbytes


def load_compact(path: PathLike, module: nn.Module) -> nn.Module:
    """Load a file that `save_compact` wrote: all values, bit for bit, and the ties.

    Args:
        path: The file.
        module: A module of the same parameters and buffers, changed in place. Parameters that are one in the file
            become one; it may have such ties already, where the file has equal values. Ordinary layers of which the
            file has a codebook become codebook layers, and locally connected ones of which it has one filter for all
            positions become convolutions.

    Returns:
        The module.

    Raises:
        OSError: If the file cannot be opened.
        CompactFileError: If it is not a compact file, is damaged, is from a newer lit_share, or does not fit the
            module. The module is then as it was.
        TieError: If its ties do not fit the module. The module is then as it was.

    Make the optimizer afterwards: parameters that become one are replaced in the module, and not in optimizers.

    Example:
        >>> import tempfile
        >>> layer, fresh = nn.Linear(30, 20), nn.Linear(30, 20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_compact(layer, f"{folder}/layer.safetensors")
        ...     _ = load_compact(f"{folder}/layer.safetensors", fresh)
        >>> torch.equal(fresh.weight, layer.weight)
        True
    """
    packed, inner = read(path), unwrapped(module)
    _tensors(module)  # refuses what has no tensors
    with naming(path), _unchanged_on_error(module):
        place_layers(inner, packed.manifest)
        _check_fits(packed.manifest, _tensors(module))
        values = unpack(packed)
        check_assignments(values, packed.manifest)
        inner.load_state_dict({key: values[unwrapped_name(key)] for key in inner.state_dict()})
        _check_loaded(values, _tensors(module))
        aliases_from_data(
            module, [tie.model_dump(exclude_none=True) for tie in packed.manifest.ties]
        )
    return module


def _packed(module: nn.Module) -> Packed:
    tensors = _tensors(module)
    return pack(
        tensors,
        saved_ties(aliases_to_data(module), tensors),
        codebooks_of(unwrapped(module)),
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, by the names that the unwrapped module gives."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got a {type(module).__name__}")
    tensors = {
        unwrapped_name(key): tensor for key, tensor in unwrapped(module).state_dict().items()
    }
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    return tensors


def _check_fits(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raise if names, shapes or dtypes differ. Hereafter a file cannot demand more memory than the module has."""
    missing = [name for name in tensors if name not in manifest.tensors]
    unexpected = [name for name in manifest.tensors if name not in tensors]
    if missing:
        raise CompactFileError(f"has no {_listed(missing, unexpected)}, which the module has")
    if unexpected:
        raise CompactFileError(f"has {_listed(unexpected, missing)}, which the module has not")
    for name, stored in manifest.tensors.items():
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        if stored.shape != shape:
            raise CompactFileError(
                f"has {name!r} of shape {stored.shape}, but in the module it is {shape}"
            )
        if stored.dtype != CODES[dtype]:
            raise CompactFileError(
                f"has {name!r} in {DTYPES[stored.dtype]}, but in the module it is in {dtype}, and values are not "
                f"converted: write module.to({DTYPES[stored.dtype]}) first"
            )


def _listed(names: list[str], others: list[str]) -> str:
    """The first few names, with those of the other side that are close."""
    shown = []
    for name in names[:_SHOWN]:
        close = get_close_matches(name, others, n=1)
        shown.append(f"{name!r} (but {close[0]!r})" if close else repr(name))
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _check_loaded(values: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Raise if the module does not hold what was loaded, as where two names are one tensor and the file has two."""
    for name, value in values.items():
        if not np.array_equal(bits(loaded[name]), bits(value)):
            pointer = loaded[name].untyped_storage().data_ptr()
            others = [
                o for o in loaded if o != name and loaded[o].untyped_storage().data_ptr() == pointer
            ]
            if others:
                raise CompactFileError(
                    f"has different values for {name!r} and {others[0]!r}, which are one tensor in the module: load it "
                    "into one where they are not tied (unshare(module))"
                )
            raise CompactFileError(
                f"has a value for {name!r} that the module's own load_state_dict changes"
            )


@contextmanager
def _unchanged_on_error(module: nn.Module) -> Iterator[None]:
    places: list[dict[str, Any]] = [
        held
        for part in module.modules()
        for held in (part._parameters, part._buffers, part._modules)
    ]
    held_before = [dict(place) for place in places]
    values = [
        (t, t.detach().to("cpu", copy=True))
        for held in held_before
        for t in held.values()
        if isinstance(t, Tensor)
    ]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for place, held in zip(places, held_before, strict=True):
                place.clear()
                place.update(held)
            for tensor, value in values:
                tensor.copy_(value)
        raise
