"""In place = pure, for many ties at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lit_share.functional import Penalty, add_gradient_, owl_weights, prox_

from ._zoo import CENTERS, SPECS, Case, Spec, case, each_penalty

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
SQUARED, L1 = (Penalty(norm, "element", "mean") for norm in ("squared", "l1"))


def ties_of(spec: Spec, dtype: torch.dtype = torch.float64) -> list[Case]:
    """Ties of different shapes, sizes and numbers of members."""
    names = ["matrix", "kernel", "equal", "noncontiguous", "tall matrix"]
    found = [case(spec, name, count).to(dtype) for name in names for count in CENTERS[spec.center]]
    if spec.row == "owl_tensor":  # these weights are for one number of groups only
        groups = found[0].penalty.weights.numel()
        found = [c for c in found if c.penalty.weights.numel() == groups]
    assert len(found) > 1
    return found


def inputs(found: Sequence[Case]) -> tuple[list[list[Tensor]], list[list[Tensor] | None]]:
    """Copies that may be written to, and the starting values."""
    return [[w.clone().requires_grad_() for w in c.members] for c in found], [c.start for c in found]


def noise(members: Sequence[Tensor], seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(w.shape, generator=rng).to(w.dtype) for w in members]


def same(ties: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> bool:
    """Bit by bit."""
    pairs = [pair for a, b in zip(ties, others, strict=True) for pair in zip(a, b, strict=True)]
    return all(torch.equal(w, other) for w, other in pairs)


def assert_plain_leaves(ties: Sequence[Sequence[Tensor]], grads: Sequence[Sequence[Tensor | None]] = ()) -> None:
    assert all(w.is_leaf and w.requires_grad and w.grad is None for members in ties for w in members)
    assert not any(g.requires_grad for grad in grads for g in grad if g is not None)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Of sums in different order; in half precision the pure gradient is rounded before it is added."""
    return {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}


class TestAddGradient:
    @each_penalty
    def test_pure(self, spec):
        for dtype in DTYPES:
            found = ties_of(spec, dtype)
            ties, starts = inputs(found)
            grads = [noise(c.members, seed=i) for i, c in enumerate(found)]
            expected = [
                [g + 0.5 * pull for g, pull in zip(grad, c.gradient(), strict=True)]
                for grad, c in zip(grads, found, strict=True)
            ]
            assert add_gradient_(found[0].penalty, ties, grads, 0.5, starts) is None
            assert_close(grads, expected, **tolerance(dtype))
            assert_plain_leaves(ties, grads)
            assert same(ties, [c.members for c in found])

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.row in ("squared", "l1")], ids=str)
    def test_nothing_is_added_where_grad_is_none(self, spec):
        found = ties_of(spec)
        ties, starts = inputs(found)
        grads = [
            [None if (i + j) % 2 else torch.zeros_like(w) for j, w in enumerate(c.members)] for i, c in enumerate(found)
        ]
        expected = [
            [None if g is None else pull for g, pull in zip(grad, c.gradient(), strict=True)]
            for grad, c in zip(grads, found, strict=True)
        ]
        add_gradient_(found[0].penalty, ties, grads, 1.0, starts)
        for grad, pulls in zip(grads, expected, strict=True):
            assert [g is None for g in grad] == [p is None for p in pulls]
            assert_close([g for g in grad if g is not None], [p for p in pulls if p is not None])

    @pytest.mark.parametrize("penalty", [SQUARED, L1], ids=["squared", "l1"])
    def test_all_grads_none(self, penalty):
        add_gradient_(penalty, [[torch.ones(2), torch.zeros(2)]], [[None, None]], 1.0)

    @pytest.mark.parametrize("penalty", [SQUARED, L1], ids=["squared", "l1"])
    def test_many_elements(self, penalty):
        """More than are taken at once, in large and small ties before, between and after each other."""
        sizes = [3, 2**17 + 1, 5, 2**18 + 1, 2**16, 2**16, 7]
        ties = [[torch.full((size,), 3.0), noise([torch.empty(size)], size)[0]] for size in sizes]
        grads = [[torch.ones(size), torch.zeros(size)] for size in sizes]
        expected = [
            [g + 0.1 * pull for g, pull in zip(grad, penalty.gradient(members), strict=True)]
            for grad, members in zip(grads, ties, strict=True)
        ]
        add_gradient_(penalty, ties, grads, 0.1)
        assert_close(grads, expected)

    @pytest.mark.parametrize("penalty", [SQUARED, L1], ids=["squared", "l1"])
    def test_ties_of_different_dtypes(self, penalty):
        """A model in mixed precision; gradients can be wider than the weights."""
        dtypes = [torch.float32, torch.bfloat16, torch.float64]
        ties = [[torch.tensor([1.0, 2.0], dtype=d), torch.tensor([3.0, 2.0], dtype=d)] for d in dtypes]
        grads = [[torch.zeros(2, dtype=d), torch.zeros(2)] for d in dtypes]
        add_gradient_(penalty, ties, grads, 1.0)
        pull = [-2.0, 0.0] if penalty is SQUARED else [-1.0, 0.0]
        for (own, wide), dtype in zip(grads, dtypes, strict=True):
            assert (own.dtype, wide.dtype) == (dtype, torch.float32)
            assert_close(own.tolist(), pull)
            assert_close(wide.tolist(), [-p for p in pull])

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.norm == "squared" and s.groups == "element"], ids=str)
    def test_half_precision_is_computed_in_float32(self, spec):
        """Gradients that are kept in float32 lose nothing to the members' dtype."""
        for c in ties_of(spec, torch.bfloat16):
            grads = [torch.zeros(w.shape) for w in c.members]
            add_gradient_(c.penalty, [c.members], [grads], 0.3, [c.start])
            wide = c.to(torch.float32)
            assert_close(grads, [0.3 * pull for pull in wide.gradient()], rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("penalty", [SQUARED, L1], ids=["squared", "l1"])
    def test_adds_up_and_zero_strength_adds_nothing(self, penalty):
        ties = [[torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])]]
        once, twice, none = ([[torch.zeros(2), torch.zeros(2)]] for _ in range(3))
        add_gradient_(penalty, ties, once, 0.5)
        add_gradient_(penalty, ties, twice, 0.25)
        add_gradient_(penalty, ties, twice, 0.25)
        add_gradient_(penalty, ties, none, 0.0)
        assert once[0][0].abs().sum() > 0.0
        assert_close(once, twice)
        assert not any(g.any() for g in none[0])


class TestProx:
    @each_penalty
    def test_pure(self, spec):
        for dtype in DTYPES:
            found = ties_of(spec, dtype)
            ties, starts = inputs(found)
            steps = [0.1 * (i + 1) for i in range(len(ties))]
            # Of the copies, whose strides may differ: sums would be added up in another order.
            penalty = found[0].penalty
            expected = [penalty.prox(w, t, start) for w, t, start in zip(ties, steps, starts, strict=True)]
            assert prox_(penalty, ties, steps, starts) is None
            assert same(ties, expected)
            assert_plain_leaves(ties)

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "mean" or s.norm == "squared"], ids=str)
    def test_steps_per_member(self, spec):
        found = [c for c in ties_of(spec) if len(c.members) == 2]
        ties, starts = inputs(found)
        steps = [0.3, *([0.1, 0.1 * i] for i in range(1, len(ties)))]
        expected = [c.prox(t) for c, t in zip(found, steps, strict=True)]
        prox_(found[0].penalty, ties, steps, starts)
        assert same(ties, expected)

    @each_penalty
    def test_step_zero_is_not_written(self, spec):
        found = ties_of(spec)
        ties, starts = inputs(found)
        steps = [0.0 if i % 2 else 0.3 for i in range(len(ties))]
        steps[1] = [0.0] * len(ties[1])
        prox_(found[0].penalty, ties, steps, starts)
        for i, members in enumerate(ties):
            assert [w._version for w in members] == [0 if i % 2 else 1] * len(members)

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "mean"], ids=str)
    def test_frozen_member_is_not_written(self, spec):
        c = case(spec, "matrix", 2)
        (members,), starts = inputs([c])
        prox_(c.penalty, [members], [[0.0, 0.5]], starts)
        assert [w._version for w in members] == [0, 1]
        assert torch.equal(members[0], c.members[0])
        assert torch.equal(members[1], c.prox([0.0, 0.5])[1])

    def test_many_elements(self):
        ties = [[torch.full((size,), 3.0), noise([torch.empty(size)], size)[0]] for size in (2**18 + 1, 4, 2**17)]
        expected = [L1.prox(members, 0.5) for members in ties]
        prox_(L1, ties, [0.5] * 3)
        assert same(ties, expected)

    def test_views_and_parameters(self):
        """Written through: into the rows of a table, and into a module's parameters, which stay the same objects."""
        table = torch.tensor([[1.0, 4.0], [2.0, 5.0], [9.0, 9.0]])
        prox_(L1, [[table[0], table[1]]], [0.1])
        assert_close(table, torch.tensor([[1.1, 4.1], [1.9, 4.9], [9.0, 9.0]]))
        a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        before = a.weight
        prox_(L1, [[a.weight, b.weight.T]], [100.0])
        assert a.weight is before
        assert torch.equal(a.weight, b.weight.T)


@pytest.mark.parametrize("norm", ["squared", "l1", "owl"])
class TestBoth:
    def penalty(self, norm: str, groups: str, center: str) -> Penalty:
        return Penalty(norm, groups, center, (lambda n: owl_weights(n, 0.1, 0.1)) if norm == "owl" else None)

    def test_no_ties(self, norm):
        add_gradient_(self.penalty(norm, "element", "mean"), [], [], 0.1)
        prox_(self.penalty(norm, "element", "mean"), [], [])

    @pytest.mark.parametrize(
        ("groups", "center", "members", "message"),
        [
            ("element", "mean", [torch.ones(2), torch.ones(3)], r"one shape, got \(2,\), \(3,\)"),
            ("element", "mean", [torch.ones(2)], "at least 2 members, got 1"),
            ("input", "mean", [torch.ones(2), torch.ones(2)], 'groups="input" needs tensors of at least 2 dimensions'),
            ("element", "start", [torch.ones(2), torch.ones(2)], "pass start="),
        ],
    )
    def test_members_that_do_not_fit(self, norm, groups, center, members, message):
        penalty = self.penalty(norm, groups, center)
        with pytest.raises(ValueError, match=message):
            add_gradient_(penalty, [members], [[torch.zeros_like(w) for w in members]], 0.1)
        with pytest.raises(ValueError, match=message):
            prox_(penalty, [members], [0.1])

    def test_lists_of_different_length(self, norm):
        """A list that was filtered and one that was not must not be paired up."""
        penalty = self.penalty(norm, "element", "zero")
        ties = [[torch.ones(2)], [torch.ones(2)]]
        for grads in ([[torch.zeros(2)]], [[torch.zeros(2)]] * 3, [[torch.zeros(2)], []], [[torch.zeros(2)] * 2] * 2):
            with pytest.raises(ValueError, match=r"shorter|longer"):
                add_gradient_(penalty, ties, grads, 0.1)
        for steps in ([0.1], [0.1] * 3):
            with pytest.raises(ValueError, match=r"shorter|longer"):
                prox_(penalty, ties, steps)
