"""Names that are equal without the components of wrappers are refused, wherever names are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_share.aliases import aliases_that_agree, verify_shared
from lit_share.cli import main
from lit_share.compact_files import CompactFileError, compact_bytes, load_compact, save_compact
from lit_share.penalties import fisher, second_moments, starting_values
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties, parameter_refs

WRAPPERS = ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"]


class Adapter(nn.Module):
    """Has a module under the name of a wrapper, and a tensor of its own of the same name."""

    def __init__(self, wrapper="_orig_mod", is_buffer=False):
        super().__init__()
        self.add_module(wrapper, nn.Linear(3, 2, bias=False))
        weight = torch.randn(2, 3)
        if is_buffer:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x @ self.weight.T


def adapters(*arguments):
    return nn.ModuleDict({"a": Adapter(*arguments), "b": Adapter(*arguments)})


def trained(module):
    adam = torch.optim.Adam(module.parameters())
    sum(p.square().sum() for p in module.parameters()).backward()
    adam.step()
    return adam


READERS = {
    "Ties.find": lambda m, _: Ties("a.*", "b.*").find(m),
    "share": lambda m, _: share(m, Ties("a.weight", "b.weight")),
    "unshare": lambda m, _: unshare(m, Ties("a.weight", "b.weight")),
    "verify_shared": lambda m, _: verify_shared(m) or [*parameter_refs(m)],
    "starting_values": lambda m, _: starting_values(Ties("a.*", "b.*").find(m)),
    "aliases_that_agree": lambda m, _: aliases_that_agree(m, m.state_dict()),
    "fisher": lambda m, _: fisher(m, [torch.ones(1, 3)], loss=lambda n, x: n["a"](x).sum()),
    "second_moments": lambda m, _: second_moments(m, trained(m)),
    "save_compact": lambda m, path: save_compact(m, path),
    "compact_bytes": lambda m, _: compact_bytes(m),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_both(tmp_path, reader):
    message = r"'a\.(_orig_mod\.)?weight' and 'a\.(_orig_mod\.)?weight' have one name, 'a.weight', "
    with pytest.raises(ValueError, match=message + "without '_orig_mod'") as error:
        READERS[reader](adapters(), tmp_path / "file")
    assert isinstance(error.value, (TieError, CompactFileError))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("is_buffer", [False, True])
def test_every_wrapper_and_buffers(tmp_path, wrapper, is_buffer):
    module = adapters(wrapper, is_buffer)
    with pytest.raises(TieError, match=f"without '{wrapper}'"):
        Ties("a.*", "b.*").find(module)
    with pytest.raises(CompactFileError, match=f"without '{wrapper}'"):
        save_compact(module, tmp_path / "file")


def test_a_file_does_not_load_into_such_a_module(tmp_path):
    save_compact(nn.Linear(3, 2, bias=False), tmp_path / "file")
    module = Adapter()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CompactFileError, match=r"'_orig_mod\.weight' have one name"):
        load_compact(tmp_path / "file", module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("command", ["plan", "compact"])
def test_checkpoints(tmp_path, capsys, command):
    torch.save({"state_dict": adapters().state_dict()}, tmp_path / "checkpoint")
    more = {"plan": ["a.*", "b.*"], "compact": [str(tmp_path / "out")]}[command]
    assert main([command, str(tmp_path / "checkpoint"), *more]) == 2
    assert "have one name, 'a.weight'" in capsys.readouterr().err


def test_a_parameter_of_a_wrappers_name():
    module = nn.Module()
    module._orig_mod = nn.Parameter(torch.ones(2))
    with pytest.raises(TieError, match="'_orig_mod' is called what wrappers call a module"):
        Ties("*").find(module)


def test_one_parameter_under_both_names_is_one(tmp_path):
    module, fresh = Adapter(), Adapter()
    for each in (module, fresh):
        each.weight = each._orig_mod.weight
    save_compact(module, tmp_path / "file")
    load_compact(tmp_path / "file", fresh)
    assert torch.equal(fresh.weight, module.weight)
    assert fresh._orig_mod.weight is fresh.weight


def test_wrappers_that_hide_nothing(tmp_path):
    plain, wrapped = nn.Linear(3, 2), nn.Module()
    wrapped._orig_mod = nn.Linear(3, 2)
    save_compact(plain, tmp_path / "file")
    load_compact(tmp_path / "file", wrapped)
    assert torch.equal(wrapped._orig_mod.weight, plain.weight)
