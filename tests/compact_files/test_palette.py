"""Palettes: tensors of few different values."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lit_share.compact_files import compact_bytes, load_compact, save_compact
from lit_share.compact_files._bits import bits
from lit_share.compact_files._pack import _BYTES_PER_ENTRY
from lit_share.compact_files._palette import Palette, packed_bytes, palette_arrays

from ._zoo import DTYPES, kinds, random, round_trip


def of_values(count, numel, dtype, seed=0):
    """A tensor that has each of a number of values."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.arange(count)
    chosen = values[torch.randint(count, (numel - count,), generator=generator)]
    numbers = torch.cat([values, chosen])[torch.randperm(numel, generator=generator)]
    # The lowest bytes of each number, whatever they mean in the dtype.
    whole = numbers.view(torch.uint8).view(numel, 8)[:, : dtype.itemsize]
    return whole.contiguous().view(-1).view(dtype)


COUNTS = (1, 2, 3, 16, 17, 255, 256, 257, 65536, 65537)


def most_values(dtype):
    return 2 if dtype is torch.bool else 256**dtype.itemsize


@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        (dtype, count)
        for dtype, count in itertools.product(DTYPES, COUNTS)
        if count <= most_values(dtype)
    ],
    ids=str,
)
def test_all_counts_in_all_dtypes(dtype, count):
    tensor = of_values(count, 150_001, dtype)
    arrays = palette_arrays(bits(tensor))
    width = max(1, (count - 1).bit_length())
    nbytes = -(-150_001 * width // 8) + count * dtype.itemsize
    if nbytes >= tensor.nbytes:
        assert arrays is None
        return
    assert sum(array.nbytes for array in arrays.values()) == nbytes
    palette = Palette(
        dtype="U8", shape=tensor.shape, nonzero=int((bits(tensor) != 0).sum()), values=count
    )
    palette.check({})
    assert (palette.decode(arrays, {}) == bits(tensor)).all()
    # Whichever way is chosen, no more bytes are written, and all bits come back.
    packed = round_trip({"a": tensor.view(1, -1)})
    assert packed.nbytes + _BYTES_PER_ENTRY * len(packed.entries) <= nbytes + 2 * _BYTES_PER_ENTRY


@pytest.mark.parametrize("numel", [5, 7, 8, 9, 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_indices_of_all_lengths(numel, count):
    """Bits are packed in blocks, and the last byte is partly used."""
    tensor = of_values(count, numel, torch.float64)
    arrays = palette_arrays(bits(tensor))
    if arrays is None:
        assert packed_bytes(numel, count) + 8 * count >= 8 * numel
        return
    palette = Palette(dtype="F64", shape=(numel,), nonzero=0, values=count)
    assert palette.entries({})["index"] == ("U8", arrays["index"].shape)
    assert (palette.decode(arrays, {}) == bits(tensor)).all()


def test_negative_zero_and_nan_keep_their_bits():
    values = torch.tensor([0.0, -0.0, float("nan"), 1.5, float("inf")])
    values.view(torch.int32)[2] = 0x7FC12345  # a NaN with a payload
    tensor = values[torch.arange(5000) ** 3 % 11 % 5].view(100, 50).T
    packed = round_trip({"a": tensor})
    assert [str(stored) for stored in packed.manifest.tensors.values()] == ["palette of 5 values"]
    assert packed.nbytes == 5 * 4 + 5000 * 3 // 8


def test_tensors_of_many_values_stay_as_they_are():
    packed = round_trip({"a": random(200, 64), "b": torch.arange(100), "c": random(9, 9)})
    assert kinds(packed) == ["own"] * 3


def test_the_smallest_way_is_taken():
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(4, generator=generator)[torch.randint(4, (300, 70), generator=generator)]
    zeroed = torch.randn(300, 70, generator=generator)
    zeroed[torch.rand(300, 70, generator=generator) < 0.9] = 0.0
    rows = few[torch.arange(300) % 3]
    packed = round_trip({"few": few, "zeroed": zeroed, "rows": rows, "again": few.clone()})
    assert kinds(packed) == ["palette", "sparse", "rows", "same"]


def test_a_small_file_does_not_make_a_large_tensor():
    """A palette of one value needs an index, too."""
    stored = Palette(dtype="F32", shape=(2**40,), nonzero=0, values=1)
    assert stored.entries({})["index"] == ("U8", (2**37,))
    assert str(stored) == "palette of 1 value"


@pytest.mark.parametrize("values", [0, 4])
def test_a_palette_has_values(values):
    stored = Palette(dtype="F32", shape=(3,), nonzero=0, values=values)
    with pytest.raises(ValueError, match="palette of no values, or of more values than numbers"):
        stored.check({})


def test_a_module_comes_back(tmp_path):
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    plain = compact_bytes(net)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_((8 * layer.weight / layer.weight.abs().max()).round() / 8)
    assert compact_bytes(net) < plain / 3
    save_compact(net, tmp_path / "w.safetensors")
    again = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    load_compact(tmp_path / "w.safetensors", again)
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
