"""Any module is restored from its compact file bit for bit, with its aliases and sizes."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lit_share.aliases import aliases_to_data
from lit_share.codebooks import CodebookLinear
from lit_share.compact_files import compact_bytes, load_compact, save_compact
from lit_share.local import LocallyConnected1d, LocallyConnected2d
from lit_share.metrics import sharing_stats
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from ._hostile import reference
from ._zoo import DTYPES, assert_same_bits, random, read_raw

SHARED = [Ties("a.weight", "b.weight"), Ties("a.*", "b.*"), Ties("a.weight", "c.weight.T"),
          Ties("a.weight", "b.weight", "c.weight.T"),
          Ties("local1.*[:]"), Ties("local2.weight[:]"),
          Ties("local*.*[:]"), Ties("c.weight", "b.weight.T")]  # fmt: skip
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Net(nn.Module):
    """Layers of all kinds that a compact file knows about, and buffers."""

    def __init__(self, buffers, codebook=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(9, 12), nn.Linear(9, 12), nn.Linear(12, 9)
        self.book = CodebookLinear(torch.arange(9) % 3, 4) if codebook else nn.Linear(9, 4)
        self.local1, self.local2 = LocallyConnected1d(1, 2, 2, 5), LocallyConnected2d(1, 2, 2, 3)
        self.norm = nn.BatchNorm1d(3)
        for name, buffer in buffers.items():
            self.register_buffer(name, torch.empty_like(buffer))


@st.composite
def modules(draw):
    """A module, and an ordinary one of the same kind with other values."""
    kinds = st.tuples(
        st.sampled_from(DTYPES),
        st.sampled_from([(), (0,), (5,), (3, 0), (40, 6), (6, 40), (2, 3, 4)]),
    )
    buffers = {
        f"buffer{i}": random(*shape, dtype=dtype, seed=i)
        for i, (dtype, shape) in enumerate(draw(st.lists(kinds, max_size=4)))
    }
    codebook, dtype = draw(st.booleans()), draw(st.sampled_from(FLOATS))
    floats = {
        name
        for name, buffer in buffers.items()
        if buffer.is_floating_point() and buffer.itemsize > 1
    }
    other = Net(buffers)
    module = Net(buffers, codebook)
    for net in (module, other):
        for part in (net.a, net.b, net.c, net.book, net.local1, net.local2, net.norm):
            part.to(dtype)
    chance = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in buffers:
                tensor.copy_(buffers[name])
            elif tensor.is_floating_point():
                tensor.copy_(random(*tensor.shape, dtype=dtype, seed=draw(st.integers(0, 3))))
                tensor.nan_to_num_(nan=-0.0, posinf=1.0, neginf=-1.0)
                how = draw(
                    st.sampled_from(
                        ["as it is", "zeros", "zero rows", "equal rows", "no numbers", "nan"]
                    )
                )
                if how == "zeros":
                    tensor.masked_fill_(torch.rand(tensor.shape, generator=chance) < 0.8, 0.0)
                elif how == "zero rows":
                    tensor[tensor.shape[0] // 3 :] = 0.0
                elif how == "equal rows":
                    tensor.copy_(tensor[:1].expand_as(tensor))
                elif how == "no numbers":
                    tensor.zero_()
                elif how == "nan":
                    tensor.view(-1)[0] = float("nan")
    if draw(st.booleans()):
        module.b.weight[4:].data.copy_(module.a.weight[4:])
    if floats and draw(st.booleans()):
        name = min(floats)
        module.register_buffer("again", getattr(module, name))
        other.register_buffer("again", torch.zeros_like(buffers[name]))
    for ties in draw(st.lists(st.sampled_from(SHARED), max_size=2)):
        with suppress(TieError):
            share(module, ties, where=draw(st.sampled_from(["all", "all", "equal"])))
    return module, other


slowly = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)


@slowly
@given(modules())
def test_any_module_comes_back(tmp_path_factory, drawn):
    module, other = drawn
    path = tmp_path_factory.mktemp("any") / "w"
    save_compact(module, path)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    assert load_compact(path, other) is other
    assert_same_bits(other.state_dict(), expected)
    assert_same_bits(module.state_dict(), expected)  # saving changed nothing
    assert as_sets(aliases_to_data(other)) == as_sets(aliases_to_data(module))

    nbytes = len(read_raw(path)[1])
    assert compact_bytes(module) == compact_bytes(other) == sharing_stats(module).bytes == nbytes
    assert sharing_stats(module).file_bytes == path.stat().st_size
    assert nbytes <= sum(tensor.nbytes for tensor in expected.values())
    found, _ = reference(path.read_bytes())
    assert {name: (list(bits.shape), bits.dtype.itemsize) for name, bits in found.items()} == {
        name: (list(tensor.shape), tensor.itemsize) for name, tensor in expected.items()
    }

    save_compact(other, path.with_name("again"))
    assert read_raw(path.with_name("again")) == read_raw(path)


@slowly
@given(modules())
def test_a_file_loads_into_a_module_that_is_shared_alike(tmp_path_factory, drawn):
    module, _ = drawn
    path = tmp_path_factory.mktemp("alike") / "w"
    save_compact(module, path)
    same = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in same.parameters():
            parameter.fill_(2.0)
    load_compact(path, same)
    assert_same_bits(same.state_dict(), module.state_dict())
    assert as_sets(aliases_to_data(same)) == as_sets(aliases_to_data(module))


def as_sets(entries):
    return sorted(sorted((key, str(value)) for key, value in entry.items()) for entry in entries)
