"""Counts and distances, against counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric
from safetensors import safe_open
from torch import nn

from lit_share.compact_files import load_compact, save_compact
from lit_share.metrics import (
    compare_found,
    compare_ties,
    count_tied,
    relative_distance,
    sharing_stats,
)
from lit_share.metrics._counts import overall_distance
from lit_share.sharing import share
from lit_share.ties import Ties

from .._modules import mlp, module_of, named, pair_of


def count_by_hand(module, ties=()):
    """Total, unique and zeros, number by number.

    ``ties`` are lists of members, a member is a name and what is taken of the array of that name.
    Every number of memory is a cell; cells with one non-zero value at one position of a tie are
    joined.
    """
    parameters = named(module)
    distinct = {id(p): p for p in parameters.values()}
    cells, values = {}, []
    for key, parameter in distinct.items():
        cells[key] = len(values) + np.arange(parameter.numel()).reshape(tuple(parameter.shape))
        values += parameter.detach().flatten().tolist()
    groups = {cell: {cell} for cell, value in enumerate(values) if value != 0.0}
    for members in ties:
        parts = [take(cells[id(parameters[name])]) for name, take in members]
        for column in zip(*(np.ravel(part) for part in parts), strict=True):
            for one, other in itertools.combinations(column, 2):
                if values[one] == values[other] != 0.0 and groups[one] is not groups[other]:
                    joined = groups[one] | groups[other]
                    groups.update(dict.fromkeys(joined, joined))
    return {
        "total": sum(p.numel() for p in parameters.values()),
        "unique": len({id(group) for group in groups.values()}),
        "zeros": sum(int((p == 0).sum()) for p in parameters.values()),
    }


def whole(name):
    return name, lambda cells: cells


def counted(module, ties=None):
    stats = sharing_stats(module, ties)
    return {name: getattr(stats, name) for name in ("total", "unique", "zeros")}


def coarse(module, seed=0, values=3):
    """A module with few different numbers, including zero, so that many positions are equal."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in dict.fromkeys(named(module).values()):
        parameter.data = torch.randint(0, values, parameter.shape, generator=generator).to(
            parameter
        )
    return module


def test_dense_module():
    stats = sharing_stats(mlp(0))
    assert (stats.total, stats.unique, stats.zeros, stats.bytes) == (23, 23, 0, 23 * 8)
    assert (stats.sparsity, stats.sharing, stats.compression) == (0.0, 1.0, 1.0)


def test_zeros():
    module = mlp(0)
    with torch.no_grad():
        module[0].weight[1] = 0.0
        module[0].weight[0, 0] = -0.0
    stats = sharing_stats(module)
    assert (stats.total, stats.unique, stats.zeros) == (23, 18, 5)
    assert (stats.sparsity, stats.sharing, stats.compression) == (5 / 23, 1.0, 23 / 18)


def test_equal_numbers_count_as_shared_only_in_ties():
    pair = pair_of(a=mlp(0), b=mlp(0))
    assert counted(pair) == {"total": 46, "unique": 46, "zeros": 0}
    stats = sharing_stats(pair, Ties("a.*", "b.*"))
    assert (stats.unique, stats.sharing, stats.compression) == (23, 2.0, 2.0)


def test_equal_numbers_at_different_positions_are_not_tied():
    module = module_of({"a": (2,), "b": (2,)})
    module.a.data, module.b.data = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    assert sharing_stats(module, Ties("a", "b")).unique == 4


@pytest.mark.parametrize("ties", [None, Ties("a.*", "b.*")])
def test_hard_sharing(ties):
    pair = pair_of(a=mlp(0), b=mlp(1))
    share(pair, Ties("a.*", "b.*"))
    stats = sharing_stats(pair, ties)
    assert (stats.total, stats.unique, stats.bytes) == (46, 23, 23 * 8)
    assert (stats.sparsity, stats.sharing, stats.compression) == (0.0, 2.0, 2.0)


def test_all_zeros():
    module = mlp(0)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    stats = sharing_stats(module, Ties("*"))
    assert (stats.unique, stats.sparsity, stats.sharing) == (0, 1.0, 0.0)
    assert math.isfinite(stats.compression)


def test_module_without_parameters():
    stats = sharing_stats(nn.Tanh())
    assert counted(nn.Tanh()) == {"total": 0, "unique": 0, "zeros": 0}
    assert stats.sparsity == 0.0


def test_as_dict():
    module = coarse(pair_of(a=mlp(0), b=mlp(1)))
    stats = sharing_stats(module, Ties("a.*", "b.*"))
    assert stats.as_dict() == {
        "total": stats.total,
        "unique": stats.unique,
        "zeros": stats.zeros,
        "bytes": stats.bytes,
        "file_bytes": stats.file_bytes,
        "sparsity": stats.zeros / stats.total,
        "sharing": (stats.total - stats.zeros) / stats.unique,
        "compression": stats.total / stats.unique,
    }


def stored_bytes(path):
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


def large(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 30))


@pytest.mark.parametrize(
    "kind", ["apart", "shared", "transposed", "units", "sparse", "equal, not shared"]
)
def test_bytes_are_those_of_the_compact_file(kind, tmp_path):
    pair = pair_of(a=large(0), b=large(1))
    apart = sharing_stats(pair).bytes
    with torch.no_grad():
        if kind == "shared":
            share(pair, Ties("a.*", "b.*"))
        elif kind == "transposed":
            share(pair, Ties("*.0.weight", "*.2.weight.T"))
        elif kind == "units":
            pair["b"][0].weight[:15] = pair["a"][0].weight[:15]
            share(pair, Ties("a.*", "b.*"), where="equal")
        elif kind == "sparse":
            pair["a"][0].weight[:, 5:] = 0.0
        elif kind == "equal, not shared":
            pair["b"].load_state_dict(pair["a"].state_dict())
    save_compact(pair, tmp_path / "pair.safetensors")
    stats = sharing_stats(pair)
    assert stats.bytes == stored_bytes(tmp_path / "pair.safetensors")
    assert stats.bytes == apart if kind == "apart" else stats.bytes < 0.85 * apart
    load_compact(tmp_path / "pair.safetensors", fresh := pair_of(a=large(2), b=large(3)))
    assert sharing_stats(fresh) == stats


def test_bytes_of_what_no_compact_file_holds():
    class Stateful(nn.Linear):
        def get_extra_state(self):
            return {"no": "tensor"}

    assert sharing_stats(Stateful(3, 2)).bytes is None
    assert sharing_stats(Stateful(3, 2)).total == 8


def test_bytes_of_mixed_precision():
    pair = pair_of(a=mlp(0), b=mlp(1, torch.bfloat16))
    assert sharing_stats(pair).bytes == 23 * 8 + 23 * 2


@pytest.mark.parametrize("roots", ["a", "ab", "abc", "abcd"])
@pytest.mark.parametrize("seed", range(3))
def test_partly_equal_members(roots, seed):
    module = coarse(pair_of(**{root: mlp(0) for root in roots}), seed)
    leaves = [name for name, _ in mlp(0).named_parameters()]
    by_hand = [[whole(f"{root}.{leaf}") for root in roots] for leaf in leaves]
    expected = count_by_hand(module, by_hand)
    assert counted(module, Ties(*(f"{root}.*" for root in roots))) == expected
    if len(roots) > 1:
        assert expected["unique"] < count_by_hand(module)["unique"]


def test_three_members_of_which_two_are_one_parameter():
    module = coarse(pair_of(a=mlp(0), b=mlp(1), c=mlp(2)))
    share(module, Ties("a.*", "c.*"), init="first")
    by_hand = [[whole(f"{root}.{leaf}") for root in "abc"] for leaf, _ in mlp(0).named_parameters()]
    assert counted(module, Ties("a.*", "b.*", "c.*")) == count_by_hand(module, by_hand)


def test_transposed_members():
    module = coarse(module_of({"enc": (4, 3), "dec": (3, 4)}))
    by_hand = [[whole("enc"), ("dec", np.transpose)]]
    assert counted(module, Ties("enc", "dec.T")) == count_by_hand(module, by_hand)


def test_slices():
    module = coarse(module_of({"w": (4, 3, 2)}))
    by_hand = [[("w", lambda cells, i=i: cells[i]) for i in range(4)]]
    assert counted(module, Ties("w[:]")) == count_by_hand(module, by_hand)


def test_the_same_ties_twice():
    """Two callbacks may have found the same ties."""
    module = coarse(pair_of(a=mlp(0), b=mlp(1)))
    by_hand = [[whole(f"{root}.{leaf}") for root in "ab"] for leaf, _ in mlp(0).named_parameters()]
    ties = [*Ties("a.*", "b.*").find(module), *Ties("b.*", "a.*").find(module)]
    assert counted(module, ties) == count_by_hand(module, by_hand)


@pytest.mark.parametrize(
    "groups", [["ab", "bc"], ["ab", "bc", "ac"], ["ab", "abc"], ["ab", "cd", "abcd"]]
)
def test_overlapping_ties(groups):
    """A number that several ties find equal to others is still one number."""
    module = coarse(pair_of(**{root: mlp(0) for root in "abcd"}), values=2)
    leaves = [name for name, _ in mlp(0).named_parameters()]
    by_hand = [[whole(f"{root}.{leaf}") for root in group] for group in groups for leaf in leaves]
    ties = [tie for group in groups for tie in Ties(*(f"{root}.*" for root in group)).find(module)]
    assert counted(module, ties) == count_by_hand(module, by_hand)


def test_models_with_a_tied_layer_inside():
    """Each of two equal models uses its own embedding twice, as language models do."""
    models = {root: pair_of(embed=nn.Linear(3, 2), head=nn.Linear(3, 2)) for root in "ab"}
    module = coarse(pair_of(**models), seed=2)
    for model in models.values():
        model["head"].weight = model["embed"].weight
    by_hand = [
        [whole(f"{root}.{leaf}") for root in "ab"]
        for leaf in ("embed.weight", "embed.bias", "head.weight", "head.bias")
    ]
    assert counted(module, Ties("a.*", "b.*")) == count_by_hand(module, by_hand)


def test_module_of_fabric_counts_as_the_module_in_it():
    pair = pair_of(a=mlp(0), b=mlp(1))
    assert counted(Fabric(accelerator="cpu", devices=1).setup_module(pair)) == counted(pair)


# Distances

same_in_every_run = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def distance_by_hand(ties):
    pairs = [(x, y) for members in ties for x, y in itertools.combinations(members, 2)]
    between = sum(np.sum((x - y) ** 2) for x, y in pairs)
    size = sum((len(members) - 1) * np.sum(w**2) for members in ties for w in members)
    return np.sqrt(between / size)


@same_in_every_run
@given(
    count=st.integers(2, 5), shape=st.lists(st.integers(1, 4), max_size=3), seed=st.integers(0, 99)
)
def test_relative_distance(count, shape, seed):
    members = list(np.random.default_rng(seed).normal(size=(count, *shape)))
    expected = distance_by_hand([members])
    assert relative_distance([torch.from_numpy(np.asarray(w)) for w in members]) == pytest.approx(
        expected, rel=1e-12
    )


@same_in_every_run
@given(count=st.integers(2, 40), near=st.sampled_from([1.0, 1e-3, 1e-6]), seed=st.integers(0, 99))
def test_comparison_of_many_members(count, near, seed):
    """Members much nearer to each other than to zero, against the sum over all pairs."""
    rng = np.random.default_rng(seed)
    members = rng.normal(size=(3, 4)) + near * rng.normal(size=(count, 3, 4))
    (comparison,) = compare_ties([[torch.from_numpy(w) for w in members]])
    expected = sum(np.sum((x - y) ** 2) for x, y in itertools.combinations(members, 2))
    assert comparison.between == pytest.approx(expected, rel=1e-8)
    assert comparison.size == pytest.approx((count - 1) * np.sum(members**2), rel=1e-12)


@pytest.mark.parametrize("count", [3, 7, 900])
def test_equal_members_are_at_no_distance_however_many(count):
    w = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (comparison,) = compare_ties([[w.clone() for _ in range(count)]])
    assert comparison.between == 0.0
    assert comparison.size > 0.0
    assert compare_ties([[w] * count]) == [comparison]


def test_overall_distance_sums_numerators_and_denominators():
    rng = np.random.default_rng(0)
    ties = [
        list(rng.normal(size=(2, 3, 4))),
        list(100.0 * rng.normal(size=(3, 5))),
        list(rng.normal(size=(2,))),
    ]
    tensors = [[torch.from_numpy(np.asarray(w)) for w in members] for members in ties]
    assert overall_distance(tensors) == pytest.approx(distance_by_hand(ties), rel=1e-12)


def test_distance_of_equal_orthogonal_and_opposite_members():
    x, y = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert relative_distance([x, x.clone(), x.clone()]) == 0.0
    assert relative_distance([x, y]) == 1.0
    assert relative_distance([x, -x]) == math.sqrt(2.0)
    assert relative_distance([0.0 * x, 0.0 * y]) == 0.0
    assert relative_distance([x, 0.0 * x]) == 1.0


def test_distance_is_at_most_its_bound():
    """√(N / (N − 1)), for members that sum up to zero."""
    corners = torch.eye(4) - 0.25
    assert relative_distance(list(corners)) == pytest.approx(math.sqrt(4 / 3))


def test_distance_of_equal_members_is_exactly_zero_in_half_precision():
    w = torch.randn(50).to(torch.float16) * 1e4
    assert relative_distance([w, w.clone()]) == 0.0
    assert math.isfinite(relative_distance([w, -w]))


@same_in_every_run
@given(count=st.integers(2, 4), seed=st.integers(0, 99))
def test_count_tied(count, seed):
    members = np.random.default_rng(seed).integers(0, 2, size=(count, 3, 4)).astype(float)
    expected = sum(len(set(members[:, i, j])) == 1 for i in range(3) for j in range(4))
    assert count_tied([torch.from_numpy(w) for w in members]) == expected


def test_numbers_inside_a_tensor():
    """Equal numbers count once; distances are those of members of one number each."""
    module = module_of({"w": (4, 5), "b": (4, 5)})
    with torch.no_grad():
        module.w.copy_(torch.arange(20).view(4, 5) % 3)
        module.b.copy_(module.w)
    inside, pair = Ties("w[...]"), Ties("w", "b")
    plain = sharing_stats(module)
    nonzero = int(torch.count_nonzero(module.w))
    assert plain.unique == 2 * nonzero
    assert sharing_stats(module, inside).unique == nonzero + 2
    both = [*inside.find(module), *pair.find(module)]
    assert sharing_stats(module, both).unique == 2
    comparisons = compare_found(both)
    members = list(module.w.detach().flatten())
    (expected,) = compare_ties([members])
    assert comparisons[0][:2] == pytest.approx(expected[:2])
    assert comparisons[0][2:] == (17, 19)
    assert comparisons[1].tied == 1.0
    assert compare_found(both[::-1]) == comparisons[::-1]
    with torch.no_grad():
        module.w.fill_(0.3)
    (equal,) = compare_found(inside.find(module))
    assert (equal.distance, equal.tied) == (0.0, 1.0)


def test_a_million_numbers_are_counted():
    module = module_of({"w": (1000, 1000)})
    with torch.no_grad():
        module.w.mul_(8).round_()
    values = set(module.w.flatten().tolist())
    stats = sharing_stats(module, Ties("w[...]"))
    assert stats.unique == len(values - {0.0})
    assert stats.bytes < 10**6
