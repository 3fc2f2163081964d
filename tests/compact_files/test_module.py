"""Modules as compact files: the same values and the same ties, or an error and no change at all."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from lit_share.compact_files import (
    CompactFileError,
    _module,
    compact_bytes,
    load_compact,
    read,
    save_compact,
)
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from ._zoo import assert_same_bits, random, read_raw


class Net(nn.Module):
    """Two towers with batch norm, buffers of several kinds, and a head."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.b = (
                nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)) for _ in range(2)
            )
            self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("mask", torch.eye(40, dtype=torch.bool))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("nothing", torch.empty(0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def snapshot(module):
    return (
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
        {
            name: id(parameter)
            for name, parameter in module.named_parameters(remove_duplicate=False)
        },
    )


def refused(path, module, error=CompactFileError):
    before, identities = snapshot(module)
    with pytest.raises(error) as caught:
        load_compact(path, module)
    after, identities_after = snapshot(module)
    assert_same_bits(after, before)
    assert identities_after == identities
    return str(caught.value)


def test_round_trip(path):
    net, other = Net(), Net(seed=1)
    save_compact(net, path)
    assert load_compact(path, other) is other
    assert_same_bits(other.state_dict(), net.state_dict())
    assert other.a[0].weight is not other.b[0].weight


def test_every_bit(path):
    net = nn.Linear(16, 16)
    with torch.no_grad():
        net.weight.copy_(random(16, 16))
    save_compact(net, path)
    assert_same_bits(load_compact(path, nn.Linear(16, 16)).state_dict(), net.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(path, dtype):
    net = Net().to(dtype)
    save_compact(net, path)
    assert_same_bits(load_compact(path, Net(1).to(dtype)).state_dict(), net.state_dict())


@pytest.mark.parametrize("tied_already", [False, True])
def test_ties(path, tied_already):
    net, other = Net(), Net(seed=1)
    share(net, Ties("a.*", "b.*"))
    if tied_already:
        share(other, Ties("a.*", "b.*"))
    save_compact(net, path)
    load_compact(path, other)
    assert other.a[0].weight is other.b[0].weight
    assert other.a[1].bias is other.b[1].bias
    assert_same_bits(other.state_dict(), net.state_dict())
    # They stay one when trained.
    torch.optim.SGD(other.parameters(), lr=0.1)
    assert len(list(other.parameters())) == 8


def test_natural_ties(path):
    net, other = (
        nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
        for _ in range(2)
    )
    net["head"].weight = net["embed"].weight
    save_compact(net, path)
    load_compact(path, other)
    assert other["head"].weight is other["embed"].weight
    assert compact_bytes(net) == 10 * 4 * 4


def test_transposed_ties(path):
    net, other = (
        nn.ModuleDict({"a": nn.Linear(4, 6, False), "b": nn.Linear(6, 4, False)}) for _ in range(2)
    )
    share(net, Ties("a.weight", "b.weight.T"))
    save_compact(net, path)
    assert compact_bytes(net) == 4 * 6 * 4
    load_compact(path, other)
    assert sum(parameter.numel() for parameter in other.parameters()) == 24
    assert_same_bits(other.state_dict(), net.state_dict())


def test_two_shared_networks_take_the_bytes_of_one():
    net = Net()
    one = compact_bytes(net.a)
    share(net, Ties("a.*", "b.*"))
    both = nn.ModuleDict({"a": net.a, "b": net.b})
    assert compact_bytes(both) == one


def test_compact_bytes_is_the_data_section(path):
    net = Net()
    save_compact(net, path)
    assert compact_bytes(net) == len(read_raw(path)[1])


def test_compiled_modules_have_the_names_of_plain_ones(path):
    net = Net()
    save_compact(torch.compile(net, backend="eager"), path)
    other = torch.compile(Net(1), backend="eager")
    load_compact(path, other)
    assert_same_bits(other._orig_mod.state_dict(), net.state_dict())
    load_compact(path, Net(1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda net: net.add_module("extra", nn.Linear(2, 2)),
            "has no 'extra.weight', 'extra.bias', which the module",
        ),
        (
            lambda net: delattr(net, "up"),
            r"has 'up.weight'.*, 'up.bias'.*, which the module has not",
        ),
        (
            lambda net: net.add_module("c", net._modules.pop("a")),
            r"has no 'c.0.weight' \(but 'a.0.weight'\).* and 4",
        ),
        (
            lambda net: setattr(net, "up", nn.Linear(16, 25)),
            r"has 'up.weight' of shape \(24, 16\), but .* \(25, 16\)",
        ),
        (
            lambda net: net.half(),
            r"has '.*' in torch.float32, but .* torch.float16.*write module.to\(torch.float32\)",
        ),
    ],
)
def test_modules_that_do_not_fit(path, change, problem):
    save_compact(Net(), path)
    other = Net(1)
    change(other)
    assert re.search(problem, refused(path, other))


def test_ties_that_the_file_has_not(path):
    save_compact(Net(), path)
    tied = Net(1)
    tied.a[0].weight = tied.b[0].weight
    assert (
        "different values for 'a.0.weight' and 'b.0.weight', which are one tensor in the module"
        in refused(path, tied)
    )
    shared = Net(1)
    share(shared, Ties("a.*", "b.*"))
    assert "'a.0.weight' and 'b.0.weight' are shared" in refused(path, shared, TieError)


def test_ties_that_fail(path, monkeypatch):
    net = Net()
    share(net, Ties("a.*", "b.*"))
    save_compact(net, path)

    def half_way(module, ties):
        module.a[0].weight = module.b[0].weight
        raise TieError("no")

    monkeypatch.setattr(_module, "aliases_from_data", half_way)
    refused(path, Net(1), TieError)


def test_a_module_that_loads_other_values(path):
    class Doubles(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            super()._load_from_state_dict({k: 2 * v for k, v in state_dict.items()}, prefix, *rest)

    save_compact(nn.Linear(3, 3), path)
    assert "'weight' that the module's own load_state_dict changes" in refused(path, Doubles(3, 3))


def test_a_damaged_file_changes_nothing(path):
    save_compact(Net(), path)
    content = path.read_bytes()
    other = Net(1)
    for i in range(0, len(content), 97):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        try:
            load_compact(path, copy.deepcopy(other))
        except CompactFileError:
            refused(path, other)
        else:
            assert content[i : i + 1].isspace() or i > 8


def test_nothing_is_decoded_for_another_module(path, monkeypatch):
    save_compact(Net(), path)
    monkeypatch.setattr(
        _module, "decode", lambda packed: pytest.fail("decoded before the shapes were compared")
    )
    refused(path, nn.Linear(3, 3))


def test_extra_state_is_refused(path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"epoch": 3}

    with pytest.raises(CompactFileError, match="'_extra_state' is a dict, not a tensor"):
        save_compact(Extra(2, 2), path)
    assert not path.exists()


def test_modules_without_a_shape(path):
    with pytest.raises(
        CompactFileError, match="'weight' has no shape yet: run a batch through the module first"
    ):
        save_compact(nn.LazyLinear(3), path)


def test_modules_without_values(path):
    save_compact(Net(), path)
    with pytest.raises(CompactFileError, match=r"'.*' has no values .* module.to_empty"):
        load_compact(path, Net().to("meta"))


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        load_compact(path, Net())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(path):
    net, other = Net().cuda(), Net(1).cuda()
    share(net, Ties("a.*", "b.*"))
    save_compact(net, path)
    load_compact(path, other)
    assert other.up.weight.is_cuda
    assert other.a[0].weight is other.b[0].weight
    assert_same_bits(other.state_dict(), net.state_dict())


def test_the_ties_are_in_the_file(path):
    net = Net()
    net.a[0].weight = net.b[0].weight
    save_compact(net, path)
    assert [tie.names for tie in read(path).manifest.ties] == [("a.0.weight", "b.0.weight")]
