"""Members on a graph: value, gradient and proximal step."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lit_share.functional import Penalty, TieBatch, TieTensors, prox_
from lit_share.functional import _duals as duals
from lit_share.functional import _fusion as fusion
from lit_share.functional._edges import Graph, kind_of
from lit_share.functional._fused import is_fusable
from lit_share.functional._fused_graph import is_fusable_graph

from . import _graphs as reference
from ._members import (
    GROUPS,
    arrays,
    each_count,
    each_dtype,
    each_grouping,
    members_of,
    steps_of,
)
from ._ranks import WORLD, Threads, cut, shard_of

NORMS = ("squared", "l1")
KINDS = ("all", "chain", "adaptive", "list", "star")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_row = pytest.mark.parametrize(
    ("norm", "kind"), [row for row in itertools.product(NORMS, KINDS) if row != ("squared", "star")]
)


def edges_of(kind: str, count: int) -> object:
    """What ``edges=`` is; a list with a weight of 0, and members without an edge."""
    if kind != "list":
        return kind
    listed = [(1, 0, 0.5), (count - 1, 1, 1.5), (0, 2), (2, 3, 0.0)]
    return [
        edge for i, edge in enumerate(listed) if max(edge[:2]) < count and (i != 1 or count > 2)
    ]


@each_row
@each_grouping
@each_count
def test_value_and_gradient(norm, groups, kind, count):
    members, edges = members_of(count), edges_of(kind, count)
    penalty = Penalty(norm, groups, "graph", edges=edges)
    pairs = reference.edges_of(edges, arrays(members))
    assert_close(
        penalty.value(members).item(), reference.value(norm, groups, arrays(members), pairs)
    )
    if kind == "adaptive":  # these weights are constants
        penalty = Penalty(norm, groups, "graph", edges=pairs)
    own = [w.clone().requires_grad_() for w in members]
    assert torch.autograd.gradcheck(lambda *ws: penalty.value(ws), own)
    pulls = penalty.gradient(members)
    for w, pull in zip(own, pulls, strict=True):
        (by_value,) = torch.autograd.grad(penalty.value(own), [w])
        assert_close(pull, by_value)
    assert_close(sum(pulls), torch.zeros_like(pulls[0]), rtol=0, atol=1e-9)


@each_grouping
@each_kind
@each_count
def test_equal_members_stay(groups, kind, count):
    member = members_of(2)[0]
    members = [member] * count
    penalty = Penalty("l1", groups, "graph", edges=edges_of(kind, count))
    assert penalty.value(members) == 0.0
    assert all(torch.equal(pull, torch.zeros_like(member)) for pull in penalty.gradient(members))
    moved = penalty.prox(members, 0.3)
    assert all(torch.equal(v, moved[0]) for v in moved)
    # The mean of equal numbers may differ from them by a rounding error.
    assert_close(moved[0], member, rtol=1e-15, atol=0)
    assert kind != "star" or torch.equal(moved[0], member)


@pytest.mark.slow
@each_row
@each_grouping
@each_count
def test_prox_is_what_cvxpy_finds(norm, groups, kind, count):
    members, edges = members_of(count), edges_of(kind, count)
    penalty = Penalty(norm, groups, "graph", edges=edges)
    pairs = reference.edges_of(edges, arrays(members))
    for steps in steps_of(count):
        moved = arrays(penalty.prox(members, steps))
        expected = reference.solve(norm, groups, arrays(members), steps, pairs)
        given = (arrays(members), steps, pairs)
        best = reference.objective(norm, groups, moved, *given)
        # The step reaches a lower value than the solver, but for rounding errors, and those of the
        # search for a center.
        fixed = [w if t == 0.0 else v for v, w, t in zip(expected, given[0], steps, strict=True)]
        excess = reference.objective(norm, groups, fixed, *given) - best
        spare, reach = {"star": (1e-9, 2e-3)}.get(kind, (1e-12, 1e-3))
        assert excess >= -spare * best
        # What the solver's own value has to spare is how far its point is from the minimiser.
        slack = np.sqrt(2.0 * max(steps) * max(excess, 0.0))
        assert slack <= reach
        farthest = max(np.abs(v - e).max() for v, e in zip(moved, expected, strict=True))
        assert farthest <= 1e-5 + slack


@pytest.mark.parametrize(("kind", "count"), [*itertools.product(KINDS, (3, 4)), ("star", 5)])
def test_elements_are_exact(kind, count):
    members, edges = members_of(count, shape=(6,)), edges_of(kind, count)
    penalty = Penalty("l1", "element", "graph", edges=edges)
    pairs = reference.edges_of(edges, arrays(members))
    table = np.stack(arrays(members))
    for steps in [*steps_of(count), [1e-6] * count]:
        moved = np.stack(arrays(penalty.prox(members, steps)))
        expected = [reference.solve_numbers(column, steps, pairs) for column in table.T]
        np.testing.assert_allclose(moved, np.stack(expected, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("norm", "kind"), [("squared", "all"), ("l1", "all"), ("l1", "star")])
@each_grouping
@each_dtype
def test_pair_is_a_pair_at_its_mean(norm, kind, groups, dtype):
    """Bit by bit; the weight of the edge multiplies the step, squared for a squared norm."""
    members = [w.to(dtype) for w in members_of(2)]
    mean, weight = Penalty(norm, groups, "mean"), 0.5
    for steps in (0.3, [0.1, 0.4], [0.0, 0.4], 100.0):
        graph = Penalty(norm, groups, "graph", edges=kind)
        for v, e in zip(graph.prox(members, steps), mean.prox(members, steps), strict=True):
            assert torch.equal(v, e)
        graph = Penalty(norm, groups, "graph", edges=[(1, 0, weight)])
        factor = weight**2 if norm == "squared" else weight
        scaled = [factor * t for t in steps] if isinstance(steps, list) else factor * steps
        for v, e in zip(graph.prox(members, steps), mean.prox(members, scaled), strict=True):
            assert torch.equal(v, e)
    graph = Penalty(norm, groups, "graph", edges=kind)
    assert_close(graph.value(members), mean.value(members))
    assert_close(graph.gradient(members), mean.gradient(members))


@each_count
def test_all_squared_is_the_mean(count):
    members = members_of(count)
    graph, mean = (Penalty("squared", "element", center) for center in ("graph", "mean"))
    assert_close(graph.value(members), mean.value(members))
    assert_close(graph.gradient(members), mean.gradient(members))
    for steps in (0.3, [0.1 * i for i in range(count)]):
        assert_close(graph.prox(members, steps), mean.prox(members, steps))


@each_grouping
@each_dtype
@pytest.mark.parametrize("count", [3, 5, 8])
@pytest.mark.parametrize("kind", ["all", "chain"])
def test_equal_members_are_equal_bitwise(groups, dtype, count, kind):
    """Members of two clusters that are far apart, and of one in the end."""
    rng = torch.Generator().manual_seed(1)
    middles = torch.randn(2, 4, 5, generator=rng)
    label = [0] * (count // 2) + [1] * (count - count // 2)
    near = [1e-2 * torch.randn(4, 5, generator=rng) for _ in range(count)]
    members = [(100 * middles[c] + own).to(dtype) for c, own in zip(label, near, strict=True)]
    penalty = Penalty("l1", groups, "graph", edges=kind)
    moved = penalty.prox(members, 1.0)
    for i, j in itertools.combinations(range(count), 2):
        same = torch.equal(moved[i], moved[j])
        assert same == (label[i] == label[j])
    for v in penalty.prox(members, 1e4):
        assert torch.equal(v, penalty.prox(members, 1e4)[0])
    # The members of a cluster stay equal, and the clusters keep their distance.
    again = penalty.prox(moved, 1e-3)
    assert torch.equal(again[0], again[label.count(0) - 1])


@each_grouping
@each_kind
def test_members_of_step_0_keep_their_bits(groups, kind):
    members = [w.float() for w in members_of(5)]
    penalty = Penalty("l1", groups, "graph", edges=edges_of(kind, 5))
    for frozen in range(5):
        steps = [50.0] * 5
        steps[frozen] = 0.0
        moved = penalty.prox(members, steps)
        assert torch.equal(moved[frozen], members[frozen])
        if kind in ("all", "chain", "star"):
            assert all(torch.equal(v, members[frozen]) for v in moved)


def test_step_of_0_and_no_pull_leave_members():
    members = members_of(3)
    for edges, step in (("all", 0.0), ([(0, 1, 0.0), (1, 2, 0.0)], 0.3)):
        for groups in GROUPS:
            moved = Penalty("l1", groups, "graph", edges=edges).prox(members, step)
            assert all(torch.equal(v, w) for v, w in zip(moved, members, strict=True))
            assert all(v.data_ptr() != w.data_ptr() for v, w in zip(moved, members, strict=True))


@each_grouping
@each_kind
@pytest.mark.parametrize("times", [1e-30, 1e-12, 1e8, 1e30])
def test_scale_and_order(groups, kind, times):
    """Members of other sizes take the same step, and so do those in another order."""
    members = members_of(5)
    penalty = Penalty("l1", groups, "graph", edges=edges_of(kind, 5))
    moved = penalty.prox(members, 0.3)
    larger = [times * w for w in members]
    for v, e in zip(penalty.prox(larger, 0.3 * times), moved, strict=True):
        assert_close(v / times, e, rtol=1e-6, atol=1e-6)
    assert_close(penalty.value(larger) / times, penalty.value(members))
    assert_close(penalty.gradient(larger), penalty.gradient(members), rtol=1e-6, atol=1e-6)
    if kind != "list":
        backwards = penalty.prox(members[::-1], 0.3)[::-1]
        assert_close(backwards, moved, rtol=1e-6, atol=1e-6)


@each_grouping
@each_kind
def test_half_precision_is_computed_in_float32(groups, kind):
    members = [w.bfloat16() for w in members_of(4)]
    penalty = Penalty("l1", groups, "graph", edges=edges_of(kind, 4))
    wide = penalty.prox([w.float() for w in members], 0.3)
    for v, e in zip(penalty.prox(members, 0.3), wide, strict=True):
        assert v.dtype == torch.bfloat16
        assert torch.equal(v, e.bfloat16())
    assert penalty.value(members).dtype == torch.float32
    assert penalty.gradient(members)[0].dtype == torch.bfloat16


@each_grouping
@pytest.mark.parametrize("kind", ["all", "star"])
def test_shapes(groups, kind):
    """Kernels, vectors, members that are not contiguous, and members without elements."""
    penalty = Penalty("l1", groups, "graph", edges=kind)
    rng = torch.Generator().manual_seed(0)
    for shape in ((3, 2, 2), (4, 6)):
        whole = [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(3)]
        for members in (whole, [w.transpose(0, 1) for w in whole]):
            moved = arrays(penalty.prox(members, 0.3))
            edges = reference.edges_of(kind, arrays(members))
            own = (arrays(members), [0.3] * 3, edges)
            best = reference.objective("l1", groups, moved, *own)
            for v in moved:
                v += 1e-4
                assert reference.objective("l1", groups, moved, *own) > best
                v -= 1e-4
    empty = [torch.zeros(0, 3)] * 3
    for own in (penalty.prox(empty, 0.1), penalty.gradient(empty)):
        assert [v.shape for v in own] == [(0, 3)] * 3
    assert penalty.value(empty) == 0.0


@pytest.mark.parametrize("count", [3, 5, 8])
@pytest.mark.parametrize("kind", ["all", "chain"])
def test_compiled_loops_are_what_torch_computes(count, kind):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(6, count, 4, generator=rng, dtype=torch.float64)
    rows[:, 1] = rows[:, 0]
    rows[5] = rows[5, :1]
    # Near members, and more members than dimensions: Gram matrices that are almost singular.
    rows[3, 1] = rows[3, 2] + 1e-6 * rows[3, 1]
    rows[4, :, 2:] = 0.0
    rows[4, 1] = rows[4, 2] + 1e-6 * rows[4, 0]
    rows = rows - rows[:, :1]
    pairs = kind_of(kind).pairs(count)
    every_edge = Graph(pairs, tuple(0.1 * (e % 4) for e in range(len(pairs))))
    for steps in steps_of(count):
        graph = every_edge.moving(steps)
        if not graph.pairs:
            continue
        gram = rows @ rows.mT
        compiled = duals.solve_duals(gram, graph, steps)
        plain = duals.solve_plainly(gram, graph, steps)
        assert torch.equal(compiled.leaders, plain.leaders)
        assert_close(compiled.moves @ rows, plain.moves @ rows, rtol=0, atol=1e-6)
        numbers = rows[..., 0].T.contiguous()
        compiled = torch.stack(duals.solve_numbers(list(numbers), graph, steps))
        plain = duals.solve_numbers_plainly(numbers, graph, steps)
        assert_close(compiled, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "kind"), [("squared", "adaptive"), ("l1", "adaptive"), ("l1", "star")]
)
@each_grouping
@pytest.mark.parametrize("dim", [0, 1])
def test_shards(norm, kind, groups, dim):
    """Ranks send the distances of members, and the Gram matrices of groups that span shards."""
    penalty, steps = Penalty(norm, groups, "graph", edges=kind), [0.2, 0.3, 0.4, 0.0]
    whole, parts = (members_of(4, shape=(7, 5)) for _ in range(2))
    pulls = [torch.zeros_like(w) for w in whole]
    expected, value = penalty.prox(whole, steps), penalty.value(whole).item()
    expected_pulls = penalty.gradient(whole)
    threads, values, weights = Threads(), [], []

    def work(rank: int) -> None:
        members = [cut(w, dim, rank) for w in parts]
        shard = shard_of(parts[0], dim, rank, threads.ranks(rank))
        grads = [cut(g, dim, rank) for g in pulls]
        tie = TieTensors(members, grads=grads, steps=steps, shard=shard)
        batch = TieBatch(penalty, [tie])
        values.append(batch.value())
        batch.add_gradient_(1.0)
        batch.prox_()
        weights.append(tie.edge_weights)

    threads.run(work)
    assert_close(parts, expected, rtol=0, atol=1e-7)
    assert_close(pulls, expected_pulls, rtol=0, atol=1e-7)
    assert values == pytest.approx([value] * WORLD, rel=1e-9)
    distances = 0
    if kind == "adaptive":
        assert all(torch.equal(own, weights[0]) for own in weights)
        distances = 2
    spans = penalty.needs_other_shards(2, dim)
    assert [len(sent) for sent in threads.sent] == [1 + distances + 2 * spans] * WORLD


def test_in_place_keeps_adaptive_weights():
    """They are those of the first step, however near the members come."""
    members = members_of(4)
    penalty = Penalty("l1", "tensor", "graph", edges="adaptive")
    tie = TieTensors([w.clone() for w in members], steps=[0.1] * 4)
    prox_(penalty, [tie])
    expected = reference.edges_of("adaptive", arrays(members))
    assert_close(tie.edge_weights.tolist(), [a for _, _, a in expected])
    first = tie.edge_weights
    prox_(penalty, [tie])
    assert tie.edge_weights is first


@pytest.mark.parametrize("groups", ["output", "tensor"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("kind", ["all", "chain", "adaptive", "star"])
def test_fused_loops_are_what_torch_computes(groups, dtype, kind):
    """For ties of different shapes, steps and numbers of members, of one and several jobs."""
    penalty = Penalty("l1", groups, "graph", edges=kind)
    rng = torch.Generator().manual_seed(0)
    ties, expected = [], []
    shapes = ((3, 4), (7, 9000), (40000,), (5, 0, 2), (2, 3, 600))
    for shape, count in itertools.product(shapes, (2, 3, 5)):
        members = [torch.randn(shape, generator=rng).to(dtype) for _ in range(count)]
        members[1] = members[0] + 1e-3 * members[1]
        for steps in steps_of(count):
            ties.append(TieTensors([w.clone() for w in members], steps=steps))
            expected.append(penalty.prox(members, steps))
    assert is_fusable_graph(penalty, ties[-1])
    prox_(penalty, ties)
    exact = {"star": 1e-9}.get(kind, 1e-6)
    tolerance = exact if dtype == torch.float64 else 3e-6
    for tie, own in zip(ties, expected, strict=True):
        assert_close(list(tie.members), own, rtol=0, atol=tolerance)
        for (i, v), (j, w) in itertools.combinations(enumerate(own), 2):
            if v.numel() and groups == "tensor":
                assert torch.equal(v, w) == torch.equal(tie.members[i], tie.members[j])


@pytest.mark.parametrize(
    ("change", "fused"),
    [
        ({}, True),
        ({"groups": "output"}, True),
        ({"groups": "element"}, False),
        ({"groups": "input"}, False),
        ({"norm": "squared"}, False),
        ({"center": "mean", "edges": None}, False),
    ],
)
def test_loops_decline_what_they_do_not_know(change, fused):
    pieces = {"norm": "l1", "groups": "tensor", "center": "graph", "edges": "all"} | change
    tie = TieTensors([torch.randn(2, 3) for _ in range(3)], steps=[0.1] * 3)
    penalty = Penalty(**pieces)
    assert is_fusable_graph(penalty, tie) == fused
    if penalty.center == "graph":
        assert not is_fusable(penalty, tie, as_gradient=True)
        assert not is_fusable(penalty, tie, as_gradient=False)
    half = tie.map(lambda w: w.bfloat16())
    assert not is_fusable_graph(penalty, half)
    aliases = TieTensors([tie.members[0]] * 3, steps=[0.1] * 3)
    assert not is_fusable_graph(penalty, aliases)


def test_planted_clusters():
    """Equal weights pull the clusters together as well; adaptive ones do not."""
    rng = torch.Generator().manual_seed(0)
    middles = torch.randn(2, 50, generator=rng)
    label = [0, 1, 0, 1, 0, 1]
    members = [middles[c] + 0.3 * torch.randn(50, generator=rng) for c in label]
    moved = Penalty("l1", "tensor", "graph", edges="adaptive").prox(members, 0.57)
    for i, j in itertools.combinations(range(6), 2):
        assert torch.equal(moved[i], moved[j]) == (label[i] == label[j])
    assert torch.dist(moved[0], moved[1]) > 0.5 * torch.dist(*middles)


class TestErrors:
    @pytest.mark.parametrize(
        ("edges", "message"),
        [
            ("ring", "unknown edges 'ring': write one of 'all', 'adaptive', 'chain', 'star', "),
            ([], 'edges is empty, so nothing is tied: write edges="all"'),
            ([(0, 0)], "the edge (0, 0) connects member 0 with itself"),
            ([(0, 1), (1, 0, 2.0)], "the edge between members 0 and 1 is given twice"),
            ([(0, 1, -1.0)], "weight of an edge must be finite and >= 0, got (0, 1, -1.0)"),
            ([(0, 1, float("nan"))], "weight of an edge must be finite and >= 0"),
            ([(0, 1, 1.0, 2.0)], "an edge must be (i, j) or (i, j, weight)"),
            ([0, 1], "an edge must be (i, j) or (i, j, weight) with numbers of members from 0"),
            ([(0, -1)], "an edge must be (i, j) or (i, j, weight) with numbers of members from 0"),
            ([(0, True)], "an edge must be (i, j) or (i, j, weight) with numbers of members"),
        ],
    )
    def test_edges(self, edges, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            Penalty("l1", "tensor", "graph", edges=edges)

    def test_member_that_does_not_exist(self):
        penalty = Penalty("l1", "tensor", "graph", edges=[(0, 3)])
        message = "edges names member 3, but a tie has 3 members, numbered from 0 to 2"
        with pytest.raises(ValueError, match=message):
            penalty.check([(2,)] * 3)

    def test_edges_of_another_center(self):
        message = "edges= belong to center=\"graph\"; center='mean' has none"
        with pytest.raises(ValueError, match=message):
            Penalty("l1", "tensor", "mean", edges="all")

    def test_owl(self):
        with pytest.raises(ValueError, match=r"center='graph' has no norm='owl'.*\"squared\" or"):
            Penalty("owl", "tensor", "graph", torch.ones(1))

    def test_spectrum(self):
        with pytest.raises(ValueError, match="groups of elements, and groups='spectrum' are not"):
            Penalty("l1", "spectrum", "graph")

    def test_too_few_members(self):
        with pytest.raises(ValueError, match="center='graph' needs at least 2 members, got 1"):
            Penalty("l1", "tensor", "graph").check([(2,)])


@each_grouping
@pytest.mark.parametrize("numbers", [1, 16, 40])
def test_blocks_give_what_all_numbers_at_once_give(groups, numbers, monkeypatch):
    members = members_of(4, shape=(5, 7))
    penalty = Penalty("l1", groups, "graph", edges="chain")
    expected = penalty.prox(members, 0.3)
    monkeypatch.setattr(fusion, "_BLOCK", numbers)
    assert_close(penalty.prox(members, 0.3), expected, rtol=1e-10, atol=1e-10)
