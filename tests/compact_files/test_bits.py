"""Tensors as bits, and what a compact file cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lit_share.compact_files import CompactFileError, pack
from lit_share.compact_files._bits import CODES, bits, checksum, tensor_of

from ._zoo import DTYPES, assert_same_bits, random


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (3, 4), (2, 3, 4)], ids=str)
def test_bits_and_back(dtype, shape):
    tensor = random(*shape, dtype=dtype)
    assert bits(tensor).shape == shape
    assert_same_bits({"x": tensor_of(bits(tensor), CODES[dtype])}, {"x": tensor})


@pytest.mark.parametrize(
    "tensor",
    [
        random(4, 6).T,
        random(8, 8)[::2, 1::3],
        random(3, 1).expand(3, 5),
        random(4, dtype=torch.complex64).conj(),
    ],
    ids=["transposed", "strided", "expanded", "conjugated"],
)
def test_in_order(tensor):
    again = tensor_of(bits(tensor), CODES[tensor.dtype])
    assert_same_bits({"x": again}, {"x": tensor.clone().resolve_conj().contiguous()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    assert np.array_equal(bits(random(3, 4).cuda()), bits(random(3, 4)))


def test_checksum_sees_dtype_shape_and_bytes():
    tensor = torch.zeros(2, 3)
    others = [
        tensor.view(torch.int32),
        tensor.reshape(3, 2),
        torch.tensor([[0.0] * 3, [0.0, 0.0, -0.0]]),
    ]
    assert len({checksum(other) for other in (tensor, *others)}) == 4


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (3, "'x' is a int, not a tensor: keep it in a buffer"),
        (
            torch.eye(3).to_sparse(),
            r"'x' has layout torch.sparse_coo: make it dense first, with tensor.to_dense\(\)",
        ),
        (torch.empty(3, device="meta"), r"no values \(it is on the meta device\).*to_empty"),
        (
            torch.zeros(3, dtype=torch.complex128),
            "'x' has dtype torch.complex128, which safetensors lacks: convert",
        ),
        (nn.UninitializedParameter(), "'x' has no shape yet: run a batch through the module first"),
    ],
)
def test_refused_by_name(tensor, message):
    with pytest.raises(CompactFileError, match=message):
        pack({"fine": torch.ones(2), "x": tensor})


def test_sharded_tensors_are_refused():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sharded = distribute_tensor(torch.ones(4, 2), init_device_mesh("cpu", (1,)), [Shard(0)])
        with pytest.raises(CompactFileError, match=r"'x' is a DTensor: .*tensor.full_tensor\(\)"):
            pack({"x": sharded})
    finally:
        torch.distributed.destroy_process_group()


def test_reserved_name():
    with pytest.raises(
        CompactFileError, match="'__metadata__' has a name that safetensors keeps for itself"
    ):
        pack({"__metadata__": torch.ones(2)})
