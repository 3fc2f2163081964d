"""Tensors as arrays of bit patterns: what is equal or zero here is so bit for bit, −0.0 and NaN included."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_share.compact_files._error import CompactFileError

Bits = npt.NDArray[Any]

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
# By the names that safetensors gives them; torch 2.6 lacks the last one.
DTYPES: dict[str, torch.dtype] = {
    c: getattr(torch, name) for c, name in _DTYPES.items() if hasattr(torch, name)
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def check_tensor(name: str, tensor: object) -> None:
    """Raise, with what to do instead, if a compact file cannot hold the entry ``name`` of a state dict."""
    problem = _problem(tensor)
    if name == "__metadata__":
        problem = "has a name that safetensors keeps for itself: rename it"
    if problem:
        raise CompactFileError(f"{name!r} {problem}")


def _problem(tensor: object) -> str | None:
    if not isinstance(tensor, Tensor):
        return f"is a {type(tensor).__name__}, not a tensor: keep it in a buffer, or in a file of its own"
    if is_lazy(tensor):
        return "has no shape yet: run a batch through the module first"
    # Not `isinstance`: a tensor of another class (sharded, quantized) is more than its numbers.
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"is a {type(tensor).__name__}: make it a plain tensor first (tensor.full_tensor() where it is sharded)"
    if tensor.layout != torch.strided:
        return f"has layout {tensor.layout}: make it dense first, with tensor.to_dense()"
    if tensor.is_quantized:
        return "is quantized: store tensor.int_repr() and its scale instead"
    if tensor.is_meta:
        return 'has no values (it is on the meta device): make them first, with module.to_empty(device="cpu")'
    if tensor.dtype not in CODES:
        return f"has dtype {tensor.dtype}, which safetensors lacks: convert it to one of {', '.join(_DTYPES.values())}"
    return None


def bits(tensor: Tensor) -> Bits:
    """The tensor's elements as unsigned integers of their size, without a copy where it is in order on the CPU."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat: Bits = plain.reshape(-1).view(torch.uint8).numpy()
    return flat.view(f"u{plain.element_size()}").reshape(plain.shape)


def tensor_of(array: Bits, dtype: str) -> Tensor:
    """The inverse of `bits`."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(DTYPES[dtype]).reshape(array.shape)


def checksum(tensor: Tensor) -> int:
    """A CRC-32 of the tensor's dtype, shape and bytes."""
    kind = f"{CODES[tensor.dtype]}{list(tensor.shape)}".encode()
    return zlib.crc32(bits(tensor).reshape(-1).view(np.uint8).data, zlib.crc32(kind))
