"""Whatever is in a file: it is read for what it says, or refused by name, and nothing else happens.

Some thousand files are made of valid ones, by changes to their bytes, headers, manifests (with the
right checksum) and numbers; `_hostile` has them. For another run of any length, by hand:

    export LIT_SHARE_FUZZ_COUNT=200000 LIT_SHARE_FUZZ_SEED=7
    python -m pytest -m slow tests/compact_files/test_fuzz.py

A failure names the seed and the number of the file, which is the same in every run:
`LIT_SHARE_FUZZ_FIRST=<number>` begins with it.
"""

from __future__ import annotations

import os
import random
import resource
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lit_share.codebooks import CodebookLinear
from lit_share.compact_files import (
    CompactFileError,
    _ties,
    load_compact,
    pack,
    read,
    save_compact,
    unpack,
    write,
)
from lit_share.compact_files._bits import bits
from lit_share.local import LocallyConnected2d
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from .._audit import audited
from ._hostile import MUTATIONS, Raw, reference

COUNT = int(os.environ.get("LIT_SHARE_FUZZ_COUNT", "3000"))
SEED = int(os.environ.get("LIT_SHARE_FUZZ_SEED", "0"))
FIRST = int(os.environ.get("LIT_SHARE_FUZZ_FIRST", "0"))

MOST_SECONDS, MOST_MEGABYTES = 1.0, 100


class Net(nn.Module):
    """Small, with something for every way to store and to share."""

    def __init__(self, codebook=False):
        super().__init__()
        self.a, self.b = nn.Linear(12, 10), nn.Linear(12, 10)
        self.c = nn.Linear(10, 12, bias=False)
        self.book = CodebookLinear(torch.arange(12) % 4, 5) if codebook else nn.Linear(12, 5)
        self.norm = nn.BatchNorm1d(3)
        self.local = LocallyConnected2d(1, 2, kernel_size=2, input_size=3)
        self.register_buffer("mask", torch.arange(200) % 2 == 0)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("short", torch.arange(24.0).view(4, 6).to(torch.bfloat16))
        self.register_buffer("table", (torch.arange(320) % 3).view(40, 8).to(torch.int16))
        self.register_buffer("none", torch.empty(0, 3))

    @property
    def explode(self):
        raise AssertionError("a property was read that a file named")


def plain():
    return Net()


def tied():
    net = Net()
    share(net, Ties("a.*", "b.*"))
    return net


def turned():
    net = Net()
    share(net, Ties("a.weight", "c.weight.T"))
    return net


def partly():
    net = Net()
    with torch.no_grad():
        net.b.weight[3:] = net.a.weight[3:]
    return net


def sparse():
    net = Net(codebook=True)
    with torch.no_grad():
        net.a.weight[:, 2:] = 0.0
        net.b.weight.copy_(net.a.weight.flip(0))
        net.c.weight[1:] = net.c.weight[0]
        for parameter in net.local.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    share(net, Ties("local.*[:]"))
    return net


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The content of valid files."""
    path = tmp_path_factory.mktemp("fuzz") / "w"
    contents = []
    for make in (plain, tied, turned, partly, sparse):
        torch.manual_seed(len(contents))
        save_compact(make(), path)
        contents.append(path.read_bytes())
    return contents


def fresh():
    torch.manual_seed(99)
    return Net()


def everything(module):
    """All that loading could change in a module."""
    return [
        (
            type(part),
            sorted(part.__dict__),
            *(
                {key: id(value) for key, value in held.items()}
                for held in (part._parameters, part._buffers)
            ),
            {key: id(value) for key, value in part._modules.items()},
            *(
                len(getattr(part, hooks))
                for hooks in ("_state_dict_hooks", "_load_state_dict_pre_hooks")
            ),
            len(part._load_state_dict_post_hooks),
        )
        for part in module.modules()
    ], {name: bits(tensor).tobytes() for name, tensor in module.state_dict().items()}


def check_loaded(module, content):
    """The module is what the file says."""
    expected, ties = reference(content)
    state = module.state_dict()
    assert {name: bits(tensor).tolist() for name, tensor in state.items()} == {
        name: found.tolist() for name, found in expected.items()
    }
    groups = {name: {name} for name in expected}
    for tie in ties:
        names = [place if place in expected else place.removesuffix(".T") for place in tie["names"]]
        together = set().union(*(groups[name] for name in names))
        for name in together:
            groups[name] = together
        if names == tie["names"] and names[0] in dict(module.named_parameters()):
            parameters = dict(module.named_parameters(remove_duplicate=False))
            one, *others = (parameters.get(name) for name in names)
            assert all(other is one for other in others), tie
    for name, parameter in module.named_parameters(remove_duplicate=False):
        for other, theirs in module.named_parameters(remove_duplicate=False):
            assert parameter is not theirs or other in groups[name], f"{name} and {other} are one"


def attempt(content, path, module):
    """Read and load a file; whether the module was changed."""
    path.write_bytes(content)
    before = everything(module)
    begin = time.process_time()
    with audited() as events:
        packed = tensors = None
        try:
            packed = read(path)
        except CompactFileError as error:
            check_message(error, path)
        with suppress(CompactFileError):
            tensors = None if packed is None else unpack(packed)
        try:
            load_compact(path, module)
            loaded = True
        except (CompactFileError, TieError) as error:
            loaded = False
            if isinstance(error, CompactFileError):
                check_message(error, path)
    assert time.process_time() - begin < MOST_SECONDS
    assert [
        event
        for event in events
        if event != ("open", event[1]) or event[1][0] not in (path, str(path))
    ] == []
    if tensors is not None:
        expected, _ = reference(content)
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert np.array_equal(bits(tensor), expected[name]), name
    if loaded:
        assert tensors is not None
        check_loaded(module, content)
    else:
        assert everything(module) == before
    return loaded


def check_message(error, path):
    message = str(error)
    assert message.startswith(repr(str(path)))
    assert message.isprintable()
    assert len(message) < 1000 + len(str(path))


@pytest.mark.parametrize(
    "numbers",
    [range(FIRST, FIRST + 500), pytest.param(range(FIRST, FIRST + COUNT), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_hostile_files(originals, tmp_path, numbers):
    path, module = tmp_path / "w.safetensors", fresh()
    for content in originals:  # imports that happen at first use
        assert attempt_unaudited(content, path)
    memory = None
    loaded = 0
    for number in numbers:
        chance = random.Random(f"{SEED} {number}")
        content = chance.choice(originals)
        for _ in range(chance.choice([1, 1, 1, 2])):
            try:
                content = chance.choice(MUTATIONS)(content, chance)
            except Exception:  # it has no header any more
                break
        try:
            changed = attempt(content, path, module)
        except BaseException:
            print(f"seed {SEED}, file {number}")
            raise
        if changed:
            module, loaded = fresh(), loaded + 1
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        memory = used if memory is None or number < FIRST + 50 else memory
        assert used - memory < MOST_MEGABYTES, (
            f"seed {SEED}, file {number}: {used - memory} MB more"
        )
    assert 0.01 < loaded / len(numbers) < 0.5  # both ends are met


def attempt_unaudited(content, path):
    path.write_bytes(content)
    read(path)
    return load_compact(path, fresh())


def test_small_files_that_say_much_take_no_time(tmp_path, monkeypatch):
    """Ties of the same places again and again, and places that are the same tensor."""
    path = tmp_path / "w"
    tensors = {"a": torch.rand(1000, 200), "b": torch.rand(3)}
    tensors["c"] = tensors["a"].clone()
    tensors["d"] = tensors["a"].T.contiguous()
    write(pack(tensors), path)
    raw = Raw(path.read_bytes())
    same = raw.manifest["tensors"]["c"]
    raw.manifest["tensors"] |= {f"c{i}": same for i in range(300)}
    raw.manifest["ties"] = [{"names": ["a", "c", *(f"c{i}" for i in range(300))]}] * 20
    raw.manifest["ties"] += [
        {"names": ["a", "d.T"]},
        {"names": ["c", "d.T"]},
    ] * 2000
    path.write_bytes(raw.with_manifest(raw.manifest).content())
    compared, equal = [], np.array_equal
    numpy = SimpleNamespace(array_equal=lambda *two: compared.append(two) or equal(*two))
    monkeypatch.setattr(_ties, "np", numpy)
    assert len(unpack(read(path))) == 304
    assert len(compared) < 10


@pytest.mark.parametrize(
    ("tie", "problem"),
    [
        ({"names": ["a", "a"]}, "a tie of 'a' names a parameter twice"),
        ({"names": ["b", "b.T"]}, "a tie names 'b.T', which is not a matrix"),
    ],
)
def test_ties_that_nothing_writes(tmp_path, tie, problem):
    a = torch.rand(6, 4)
    write(pack({"a": a, "b": torch.rand(3), "c": a.clone()}), tmp_path / "w")
    raw = Raw((tmp_path / "w").read_bytes())
    raw.manifest["ties"] = [tie]
    (tmp_path / "w").write_bytes(raw.with_manifest(raw.manifest).content())
    with pytest.raises(CompactFileError, match=problem):
        read(tmp_path / "w")
