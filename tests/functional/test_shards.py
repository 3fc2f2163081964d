"""Members that are divided: every part moves as it does in the whole.

The processes that have the parts are threads here, which wait for each other at each sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lit_share.functional import Penalty, Shard, empty_group_mask

from ._in_place import add_gradient_, prox_
from ._ranks import WORLD, Threads, cut, shard_of
from ._zoo import CENTERS, SPECS, Case, Spec, case, each_penalty

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def ties_of(spec: Spec) -> list[Case]:
    names = [
        "matrix",
        "tall matrix",
        "small matrix",
        "kernel",
        "equal",
        "zero groups",
        "zeros",
        "graded",
    ]
    if not {"input", "spectrum"} & {spec.groups}:
        names.append("vector")
    found = [case(spec, name, count) for name in names for count in CENTERS[spec.center]]
    if spec.row == "owl_tensor":  # these weights are for one number of groups only
        groups = found[0].penalty.weights.numel()
        found = [c for c in found if c.penalty.weights.numel() == groups]
    return found


def moved_in_parts(
    found: Sequence[Case],
    dim: int,
    move: Callable[
        [Penalty, list[list[Tensor]], list[list[Tensor]], list[list[Tensor] | None], Any, int],
        object,
    ],
    others: Sequence[Sequence[Tensor]],
) -> Threads:
    """Call ``move`` on each rank, with its shards of members, ``others`` and starting values."""
    threads, starts = Threads(), [c.start for c in found]
    members = [c.members for c in found]

    def work(rank: int) -> None:
        mine = [[cut(w, dim, rank) for w in tie] for tie in members]
        own = [[cut(w, dim, rank) for w in tie] for tie in others]
        start = [s and [cut(w, dim, rank) for w in s] for s in starts]
        ranks = threads.ranks(rank)
        shards = [shard_of(tie[0], dim, rank, ranks) for tie in members]
        move(found[0].penalty, mine, own, start, shards, rank)

    threads.run(work)
    return threads


def copies(found: Sequence[Case]) -> list[Case]:
    return [c.map(torch.clone) for c in found]


def assert_one_message(threads: Threads, found: Sequence[Case], dim: int) -> None:
    """For all ties together, and none if no tie needs other shards."""
    needed = any(c.penalty.needs_other_shards(c.members[0].ndim, dim) for c in found)
    assert [len(sent) for sent in threads.sent] == [int(needed)] * WORLD


@each_penalty
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("size", [0.05, 0.3, 30.0])
def test_prox(spec, dim, size):
    found = [c for c in copies(ties_of(spec)) if c.members[0].ndim > dim]
    steps = [c.steps(size)[0] for c in found]
    expected = [c.prox(t) for c, t in zip(found, steps, strict=True)]
    threads = moved_in_parts(
        found,
        dim,
        lambda penalty, ties, _, starts, shards, rank: prox_(
            penalty, ties, steps, starts, None, shards
        ),
        [],
    )
    for c, members in zip(found, expected, strict=True):
        assert_close(c.members, members, **EXACT, msg=lambda text, c=c: f"{c}: {text}")
    assert_one_message(threads, found, dim)


@each_penalty
@pytest.mark.parametrize("dim", [0, 1])
def test_gradient(spec, dim):
    found = [c for c in copies(ties_of(spec)) if c.members[0].ndim > dim]
    grads = [[torch.ones_like(w) for w in c.members] for c in found]
    expected = [[1.0 + 0.5 * pull for pull in c.gradient()] for c in found]
    threads = moved_in_parts(
        found,
        dim,
        lambda penalty, ties, own, starts, shards, rank: add_gradient_(
            penalty, ties, own, 0.5, starts, shards
        ),
        grads,
    )
    for c, got, pulls in zip(found, grads, expected, strict=True):
        assert_close(got, pulls, **EXACT, msg=lambda text, c=c: f"{c}: {text}")
    assert_one_message(threads, found, dim)


def held_here(penalty: Penalty, held: Tensor, ndim: int, dim: int, rank: int) -> Tensor:
    return (
        held.clone()
        if penalty.grouping.spans_shards(ndim, dim)
        else cut(held, dim, rank).contiguous()
    )


@pytest.mark.parametrize(
    "spec",
    [s for s in SPECS if s.center == "zero" and s.norm != "squared" and s.groups != "spectrum"],
    ids=str,
)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("step", [0.3, 2.0, 6.0])
def test_held_groups(spec, dim, step):
    """They are zero whatever the step, and count as such in the order of the others' norms."""
    (whole,), (parts,) = copies([case(spec, "matrix", 2)]), copies([case(spec, "matrix", 2)])
    penalty = whole.penalty
    held = empty_group_mask(penalty, whole.members)
    held.view(-1)[0] = True
    of_ranks = [held_here(penalty, held.clone(), 2, dim, rank) for rank in range(WORLD)]
    prox_(penalty, [whole.members], [step], None, [held])

    moved_in_parts(
        [parts],
        dim,
        lambda penalty, ties, _, starts, shards, rank: prox_(
            penalty, ties, [step], None, [of_ranks[rank]], shards
        ),
        [],
    )
    assert_close(parts.members, whole.members, **EXACT)
    assert held.all() if step == 6.0 else held.any()
    assert all((w[held.expand_as(w)] == 0.0).all() for w in parts.members)
    if penalty.grouping.spans_shards(2, dim):
        assert all(torch.equal(own, held) for own in of_ranks)
    else:
        assert torch.equal(torch.cat(of_ranks, dim), held)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.norm == "l1" and s.center == "mean"], ids=str
)
def test_pairs_with_two_steps(spec):
    (whole,), (parts,) = copies([case(spec, "kernel", 2)]), copies([case(spec, "kernel", 2)])
    steps = [[0.05, 0.2]]
    expected = whole.prox(steps[0])
    moved_in_parts(
        [parts],
        0,
        lambda penalty, ties, _, starts, shards, rank: prox_(
            penalty, ties, steps, None, None, shards
        ),
        [],
    )
    assert_close(parts.members, expected, **EXACT)


def test_what_needs_no_other_parts_sends_nothing():
    w = torch.ones(3, 4)

    class Never:
        def sum(self, tensor: Tensor) -> Tensor:
            raise AssertionError("sent something")

    for norm, groups, dim in [
        ("l1", "element", 0),
        ("l1", "element", 1),
        ("l1", "output", 0),
        ("l1", "input", 1),
    ]:
        prox_(Penalty(norm, groups, "zero"), [[w]], [0.1], shards=[Shard(dim, 0, 9, Never())])
    for groups in ("element", "output", "input", "tensor", "spectrum"):
        squared = Penalty("squared", groups, "zero")
        add_gradient_(squared, [[w]], [[torch.zeros(3, 4)]], 0.1, shards=[Shard(0, 0, 9, Never())])
        prox_(squared, [[w]], [0.1], shards=[Shard(0, 0, 9, Never())])


@pytest.mark.parametrize(("rows", "columns"), [(3, 7), (7, 3)])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_matrix_sends_no_more_than_its_size(rows, columns, dim):
    """For singular values: the smaller of the matrix and the products of its sharded side."""
    penalty, matrix = Penalty("l1", "spectrum", "zero"), torch.randn(rows, columns)
    sizes = []

    class Alone:
        def sum(self, tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

    prox_(penalty, [[matrix]], [0.1], shards=[Shard(dim, 0, matrix.shape[dim], Alone())])
    other = matrix.shape[1 - dim]
    assert sizes == [min(rows * columns, other * other)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", ["input", "tensor", "spectrum"])
def test_low_precision(groups, dtype):
    """Norms are added up in float64, so parts lose nothing beyond what the whole loses."""
    penalty = Penalty("l1", groups, "zero")
    rng = torch.Generator().manual_seed(0)
    exact = [torch.randn(9, 5, generator=rng, dtype=torch.float64) * 10.0**-i for i in range(3)]
    members = [w.to(dtype) for w in exact]
    expected = penalty.prox([w.double() for w in members], 0.2)
    threads = Threads()

    def work(rank: int) -> None:
        shards = [shard_of(members[0], 0, rank, threads.ranks(rank))]
        prox_(penalty, [[cut(w, 0, rank) for w in members]], [0.2], shards=shards)

    threads.run(work)
    eps = torch.finfo(dtype).eps
    for got, want in zip(members, expected, strict=True):
        assert_close(got.double(), want, rtol=4 * eps, atol=4 * torch.finfo(torch.float32).eps)


def test_huge_numbers_may_be_squared():
    w = torch.full((3, 2), 1e25)  # whose squares are infinite in float32
    pulls = [torch.zeros(1, 2) for _ in range(WORLD)]
    threads, penalty = Threads(), Penalty("l1", "input", "zero")

    def work(rank: int) -> None:
        shards = [shard_of(w, 0, rank, threads.ranks(rank))]
        add_gradient_(penalty, [[cut(w, 0, rank)]], [[pulls[rank]]], 1.0, shards=shards)

    threads.run(work)
    assert_close(torch.cat(pulls), torch.ones(3, 2))
