"""Tensors of all kinds, and what the tests do with them."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import torch

from lit_share.compact_files import pack, unpack
from lit_share.compact_files._bits import CODES, bits

DTYPES = list(CODES)


def random(*shape, dtype=torch.float32, seed=0):
    """Random bytes, but for bool, so with NaNs of all payloads."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    numbers = torch.randint(
        0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8
    )
    return numbers.reshape(-1).view(dtype).reshape(shape)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert np.array_equal(bits(found[name]), bits(tensor)), name


def round_trip(tensors, ties=()):
    """Pack, check that unpacking gives the same bits, and return what was packed."""
    packed = pack(tensors, ties)
    assert_same_bits(unpack(packed), tensors)
    return packed


def kinds(packed):
    return [stored.kind for stored in packed.manifest.tensors.values()]


def read_raw(path):
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_raw(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def forge(path, change):
    """Change a file's manifest, by a function of it or to a text, and correct its checksum."""
    header, data = read_raw(path)
    manifest = json.loads(header["__metadata__"]["lit_share"])
    text = change if isinstance(change, str) else json.dumps(change(manifest) or manifest)
    header["__metadata__"] |= {"lit_share": text, "lit_share_crc32": str(zlib.crc32(text.encode()))}
    write_raw(path, header, data)
