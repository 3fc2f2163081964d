"""View tensors as arrays of bit patterns, in which −0.0 is not zero and NaN equals itself."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_share.compact_files._error import CompactFileError
from lit_share.text import encodable

Bits = npt.NDArray[Any]

# The names of dtypes in safetensors, and in torch.
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64",
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
# torch 2.6 lacks float8_e8m0fnu.
_dtypes = {code: getattr(torch, name, None) for code, name in _DTYPES.items()}
DTYPES: dict[str, torch.dtype] = {code: dtype for code, dtype in _dtypes.items() if dtype}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def check_tensor(name: str, tensor: object) -> None:
    """Raise `CompactFileError` if a compact file cannot hold the state dict's entry ``name``."""
    problem = _problem(tensor)
    if name == "__metadata__":
        problem = "has a name that safetensors keeps for itself: rename it"
    # Python has lone surrogates in texts, and files have not.
    if encodable(name) != name:
        problem = "has a name that no file can hold: rename it"
    if problem:
        raise CompactFileError(f"{name!r} {problem}")


def _problem(tensor: object) -> str | None:
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        return f"is a {kind}, not a tensor: keep it in a buffer, or in a file of its own"
    if is_lazy(tensor):
        return "has no shape yet: run a batch through the module first"
    # The bytes of a subclass (sharded, quantized) do not suffice to restore it.
    if type(tensor) not in (Tensor, nn.Parameter):
        kind, fix = type(tensor).__name__, "tensor.full_tensor() where it is sharded"
        return f"is a {kind}: make it a plain tensor first ({fix})"
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}: make it dense first, with tensor.to_dense()"
    if tensor.is_quantized:
        return "is quantized: store tensor.int_repr() and its scale instead"
    if tensor.is_meta:
        fix = 'make them first, with module.to_empty(device="cpu")'
        return f"has no values (it is on the meta device): {fix}"
    if tensor.dtype not in CODES:
        known = ", ".join(_DTYPES.values())
        return f"has dtype {tensor.dtype}, which safetensors lacks: convert it to one of {known}"
    return None


def bits(tensor: Tensor) -> Bits:
    """Return the elements as unsigned integers of their size; no copy if contiguous on the CPU."""
    # torch conjugates and negates lazily: until resolved, the memory holds other bits.
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    # NumPy has no bfloat16 and no float8, but bytes.
    if plain.numel() == 1:
        # It counts as contiguous, whatever its stride.
        plain = plain.as_strided(plain.shape, (1,) * plain.ndim)
    flat: Bits = plain.reshape(-1).view(torch.uint8).numpy()
    return flat.view(f"u{plain.element_size()}").reshape(plain.shape)


def tensor_of(array: Bits, dtype: str) -> Tensor:
    """Invert `bits`."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(DTYPES[dtype]).reshape(array.shape)


def checksum(tensor: Tensor) -> int:
    """Return a CRC-32 of the tensor's dtype, shape and bytes."""
    # The same bytes in another shape or dtype are another tensor.
    kind = f"{CODES[tensor.dtype]}{list(tensor.shape)}".encode()
    return zlib.crc32(bits(tensor).reshape(-1).view(np.uint8).data, zlib.crc32(kind))
