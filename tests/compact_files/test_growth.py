"""Time and memory grow as files and tensors do, measured by what is touched, not by a clock."""

from __future__ import annotations

import json
import resource
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lit_share.compact_files import (
    CompactFileError,
    _find_rows,
    _pack,
    _ties,
    compact_bytes,
    load_compact,
    pack,
    read,
    unpack,
    write,
)
from lit_share.compact_files._manifest import Manifest, RecordedTie
from lit_share.compact_files._same import SameFinder

from ._zoo import random, round_trip

# Kilobytes. The file has 300, and its parts are Python objects of 60 to 100 bytes each.
MOST_MEMORY = 40_000


def header(parts):
    part, many = parts
    return json.dumps({"version": 1, "tensors": {}, "checksums": {}} | part).replace('"*"', many)


def keys(n, value="3"):
    return ",".join(f'"{i}":{value}' for i in range(n))


OWN = {"kind": "own", "dtype": "F32", "shape": [1], "nonzero": 1}
MANY = {
    "tensors": ({"tensors": "*"}, lambda n: "{" + keys(n) + "}"),
    "checksums": ({"checksums": "*"}, lambda n: "{" + keys(n, '""') + "}"),
    "ties": ({"ties": ["*"]}, lambda n: ",".join(["{}"] * n)),
    "ties that are no objects": ({"ties": ["*"]}, lambda n: ",".join(["3"] * n)),
    "codebooks": ({"codebooks": ["*"]}, lambda n: ",".join(["3"] * n)),
    "names": ({"ties": [{"names": ["*"]}]}, lambda n: ",".join(["3"] * n)),
    "shapes": ({"tensors": {"a": {**OWN, "shape": ["*"]}}}, lambda n: ",".join(['""'] * n)),
    "lengths": ({"tensors": {"a": {**OWN, "shape": ["*"]}}}, lambda n: ",".join(["1"] * n)),
    "bases": (
        {"tensors": {"a": {**OWN, "kind": "rows", "bases": ["*"], "own": 1}}},
        lambda n: ",".join(["3"] * n),
    ),
    "fields": ({"more": "*"}, lambda n: "0," + keys(n)),
    "fields of a tensor": (
        {"tensors": {"a": {**OWN, "more": "*"}}},
        lambda n: "0," + keys(n),
    ),
    "fields of a tie": (
        {"ties": [{"names": ["a"], "more": "*"}]},
        lambda n: "0," + keys(n),
    ),
    "brackets": ({"tensors": "*"}, lambda n: "[" * n),
}


@pytest.mark.parametrize("what", MANY)
def test_a_manifest_of_many_mistakes_is_refused_at_the_first(what):
    part, many = MANY[what]
    text = header((part, many(100_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CompactFileError) as error:
        Manifest.parse(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert len(str(error.value)) < 1200


def test_names_as_long_as_the_file(tmp_path):
    name = "n" * 3_000_000
    text = json.dumps({"version": 1, "tensors": {name: OWN}, "checksums": {name: 0}})
    metadata = {"lit_share": text, "lit_share_crc32": str(zlib.crc32(text.encode()))}
    content = json.dumps({"__metadata__": metadata}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(content)) + content)
    with pytest.raises(CompactFileError) as error:
        read(tmp_path / "file")
    assert len(str(error.value)) < 1200


@pytest.fixture
def compared(monkeypatch):
    """The numbers of elements that were compared for ties."""
    sizes, equal = [], np.array_equal

    def array_equal(one, other):
        sizes.append(one.size)
        return equal(one, other)

    monkeypatch.setattr(_ties, "np", SimpleNamespace(array_equal=array_equal))
    return sizes


@pytest.mark.parametrize("shape", [(500,), (10, 10)])
def test_ties_of_all_pairs_compare_each_tensor_once(compared, shape):
    arrays = {f"t{i}": np.ones(shape, np.uint32) for i in range(60)}
    pairs = [(a, b) for a in arrays for b in arrays if a != b]
    if len(shape) == 2:
        pairs += [(a, f"{b}.T") for a, b in pairs] + [(f"{a}.T", b) for a, b in pairs]
    ties = [RecordedTie(names=pair) for pair in pairs]
    needed = _ties.check_ties(ties, arrays)
    # A matrix is compared with its transpose, as well.
    assert len(compared) == len(needed) == 59 + (len(shape) == 2)


def test_ties_that_follow_from_others_are_left_out():
    a = np.arange(6, dtype=np.uint32).reshape(2, 3)
    arrays = {"a": a, "b": a.T.copy(), "c": a.copy(), "d": a.T.copy()}
    chain = [("a", "b.T"), ("b", "c.T"), ("c", "d.T")]
    follow = [("a", "c"), ("b", "d"), ("d.T", "a"), ("a", "b.T", "c", "d.T"), ("b.T", "c")]
    ties = [RecordedTie(names=names) for names in chain + follow]
    assert _ties.check_ties(ties, arrays) == ties[:3]
    wrong = [RecordedTie(names=("a", "b"))]
    with pytest.raises(ValueError, match="'a' and 'b' are tied, but not equal"):
        _ties.check_ties(ties + wrong, arrays)


def test_a_module_loads_the_ties_of_a_chain(tmp_path):
    names = [f"p{i}" for i in range(30)]
    pairs = [{"names": [a, b]} for a in names for b in names if a != b]
    value = torch.rand(4)
    write(pack(dict.fromkeys(names, value), pairs), tmp_path / "file")
    module = nn.ParameterDict({name: nn.Parameter(torch.zeros(4)) for name in names})
    load_compact(tmp_path / "file", module)
    assert len({id(p) for p in module.values()}) == 1
    assert torch.equal(module["p7"], value)


def test_one_array_of_many_names_is_counted_once(monkeypatch):
    packed = pack({f"t{i}": torch.arange(1000.0) for i in range(50)})
    counted, count = [], np.count_nonzero
    numpy = SimpleNamespace(count_nonzero=lambda a: counted.append(a.size) or count(a))
    monkeypatch.setattr(_pack, "np", numpy)
    assert len(unpack(packed)) == 50
    assert sum(counted) == 1000


def test_large_bases_are_not_copied():
    a, b = random(20_000, 50), random(20_000, 50, seed=1)
    small = {f"s{i}": torch.stack([a[i], b[i], a[i + 1], b[i + 1]] * 30) for i in range(20)}
    packed = round_trip({"a": a, "b": b, **small})
    assert {packed.manifest.tensors[name].bases for name in small} <= {("a", "b"), ("b", "a")}
    tracemalloc.start()
    unpack(packed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * sum(tensor.nbytes for tensor in small.values()) + 200_000 < a.nbytes


def touched(monkeypatch, tensors):
    """The hashes that were sorted, merged or searched to pack tensors."""
    total = [0]

    class Counting:
        def __getattr__(self, name):
            function = getattr(np, name)
            if name not in ("argsort", "sort", "searchsorted", "concatenate"):
                return function

            def counted(*arguments, **options):
                last = arguments[-1]
                total[0] += sum(map(len, last)) if name == "concatenate" else len(last)
                return function(*arguments, **options)

            return counted

    with monkeypatch.context() as patch:
        patch.setattr(_find_rows, "np", Counting())
        pack(tensors)
    return total[0]


@pytest.mark.parametrize("shape", [(64,), (16, 3), (2, 40)])
def test_twice_the_tensors_take_twice_the_work(monkeypatch, shape):
    def work(count):
        tensors = {str(i): random(*shape, dtype=torch.float64, seed=i) for i in range(count)}
        return touched(monkeypatch, tensors)

    # n log n, of which the logarithm is 1.2 times as much.
    assert work(400) < 2.6 * work(200)


def test_permutations_have_different_hashes():
    """Sums do not tell them apart, so that each was compared with all others."""
    generator, base = torch.Generator().manual_seed(0), torch.randn(12, 10)
    finder = SameFinder()
    for _ in range(50):
        mixed = base.reshape(-1)[torch.randperm(120, generator=generator)].reshape(12, 10)
        finder.find_or_add("x", "F32", mixed.view(torch.uint32).numpy(), 120)
    assert {len(candidates) for candidates in finder._seen.values()} == {1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("shape", [(300_000,), (300_000, 1), (1, 300_000), (150_000, 2)])
def test_long_tensors_take_a_few_times_their_memory(shape, dtype):
    module = nn.Module()
    module.register_buffer("w", random(*shape, dtype=dtype))
    compact_bytes(module)
    tracemalloc.start()
    compact_bytes(module)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # An index of 64 bits for each row of 8 bytes or more, and blocks of fixed sizes.
    assert peak < 8 * module.w.nbytes + 8_000_000
