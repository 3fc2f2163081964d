"""Save and load modules as compact files."""

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
from lit_share.compact_files._pack import Packed, decode, pack
from lit_share.compact_files._ties import saved_ties
from lit_share.ties import TieError, by_unwrapped_name, unwrapped, unwrapped_name

_SHOWN = 3
# Names of a file among which one that is close is looked for: there may be millions.
_COMPARED = 1000


def save_compact(module: nn.Module, path: PathLike) -> None:
    """Save a module's parameters and buffers, and store repeated numbers once.

    The file is a safetensors file with a manifest that records the ties, without pickle. Tensors,
    transposes and rows that equal earlier ones bit for bit are not stored again, nor are zeros if
    there are many; any other tensor is stored under its own name.

    Args:
        module: The module.
        path: The file, usually ``*.safetensors``. An existing file is replaced atomically.

    Raises:
        CompactFileError: If the state dict has entries that are no tensors, sharded, sparse,
            quantized or meta tensors, or dtypes that safetensors lacks.
        OSError: If the file cannot be written. An existing file is then unchanged.

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
    """Return the bytes of the data section (without the header) that `save_compact` would write.

    Args:
        module: The module.

    Raises:
        CompactFileError: If `save_compact` would raise it.

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
    """Load values and ties from a file that `save_compact` wrote, bit for bit.

    Make the optimizer afterwards: tied parameters are replaced in the module, not in optimizers.

    Args:
        path: The file.
        module: A module with the same parameters and buffers, changed in place. Parameters that are
            tied in the file become the same Parameter; they may be tied already. Ordinary layers
            become codebook layers if the file has a codebook for them, and locally connected layers
            become convolutions if it has the same filter for all positions.

    Returns:
        The module.

    Raises:
        OSError: If the file cannot be opened.
        CompactFileError: If the file is not a compact file, is damaged, is from a newer lit_share,
            or does not fit the module. The module is then unchanged.
        TieError: If the ties do not fit the module. The module is then unchanged.

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
    # A module with lazy or meta tensors is refused before anything is changed.
    _tensors(module)
    with naming(path), _unchanged_on_error(module):
        place_layers(inner, packed.manifest)
        # After this check, decoding needs no more memory than the module has.
        _check_fits(packed.manifest, _tensors(module))
        values, needed = decode(packed)
        check_assignments(values, packed.manifest)
        inner.load_state_dict({key: values[unwrapped_name(key)] for key in inner.state_dict()})
        _check_loaded(values, _tensors(module))
        # Only parameters of equal values can be merged, so the values come first.
        aliases_from_data(module, [tie.model_dump() for tie in needed])
    return module


def _packed(module: nn.Module) -> Packed:
    tensors = _tensors(module)
    ties = saved_ties(aliases_to_data(module), tensors)
    return pack(tensors, ties, codebooks_of(unwrapped(module)))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict without wrappers' prefixes; raise if a compact file cannot hold it."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got a {type(module).__name__}")
    # Wrappers such as `torch.compile` put prefixes before the names.
    state = unwrapped(module).state_dict()
    for name, tensor in state.items():
        check_tensor(name, tensor)
    try:
        return by_unwrapped_name(state)
    except TieError as error:
        raise CompactFileError(str(error)) from None


def _check_fits(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Raise `CompactFileError` if names, shapes or dtypes of file and ``tensors`` differ."""
    missing = [name for name in tensors if name not in manifest.tensors]
    unexpected = [name for name in manifest.tensors if name not in tensors]
    if missing:
        raise CompactFileError(f"has no {_listed(missing, unexpected)}, which the module has")
    if unexpected:
        raise CompactFileError(f"has {_listed(unexpected, missing)}, which the module has not")
    for name, stored in manifest.tensors.items():
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        if stored.shape != shape:
            problem = f"has {name!r} of shape {stored.shape}, but in the module it is {shape}"
            raise CompactFileError(problem)
        if stored.dtype != CODES[dtype]:
            wanted = DTYPES[stored.dtype]
            raise CompactFileError(
                f"has {name!r} in {wanted}, but in the module it is in {dtype}, and values are "
                f"not converted: write module.to({wanted}) first"
            )


def _listed(names: list[str], others: list[str]) -> str:
    """Return the first few names as text, each with the closest of ``others``, and "and n more"."""
    shown = []
    for name in names[:_SHOWN]:
        text = repr(name)
        for close in get_close_matches(name, others[:_COMPARED], n=1):
            text += f" (but {close!r})"
        shown.append(text)
    text = ", ".join(shown)
    if len(names) > _SHOWN:
        text += f" and {len(names) - _SHOWN} more"
    return text


def _check_loaded(values: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Raise `CompactFileError` if an entry of ``values`` is not bit for bit that of ``loaded``."""
    for name, value in values.items():
        if np.array_equal(bits(loaded[name]), bits(value)):
            continue
        # The likely cause: aliases in the module, whose last value replaced the others.
        memory = loaded[name].untyped_storage().data_ptr()
        for other, tensor in loaded.items():
            if other != name and tensor.untyped_storage().data_ptr() == memory:
                raise CompactFileError(
                    f"has different values for {name!r} and {other!r}, which are one tensor in "
                    "the module: load it into one where they are not tied (unshare(module))"
                )
        problem = f"has a value for {name!r} that the module's own load_state_dict changes"
        raise CompactFileError(problem)


@contextmanager
def _unchanged_on_error(module: nn.Module) -> Iterator[None]:
    registries: list[dict[str, Any]] = []
    for submodule in module.modules():
        registries += (submodule._parameters, submodule._buffers, submodule._modules)
    entries = [dict(registry) for registry in registries]
    tensors = [t for entry in entries for t in entry.values() if isinstance(t, Tensor)]
    # The copies are kept on the host, because a second model may not fit on the GPU.
    values = [(t, t.detach().to("cpu", copy=True)) for t in tensors]
    try:
        yield
    # An interrupt must not leave half a module either.
    except BaseException:
        with torch.no_grad():
            for registry, entry in zip(registries, entries, strict=True):
                registry.clear()
                registry.update(entry)
            for tensor, value in values:
                tensor.copy_(value)
        raise
