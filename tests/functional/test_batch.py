"""In place = pure, for many ties at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lit_share.functional import (
    OwlWeights,
    Penalty,
    TieBatch,
    TieTensors,
    empty_group_mask,
    owl_weights,
)

from ._in_place import add_gradient_, prox_
from ._zoo import CENTERS, SPECS, Case, Spec, case, cases, each_penalty

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
LASSO = Penalty("l1", "element", "zero")
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
    return [[w.clone().requires_grad_() for w in c.members] for c in found], [
        c.start for c in found
    ]


def noise(members: Sequence[Tensor], seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(w.shape, generator=rng).to(w.dtype) for w in members]


def same(ties: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> bool:
    """Bit by bit."""
    pairs = [pair for a, b in zip(ties, others, strict=True) for pair in zip(a, b, strict=True)]
    return all(torch.equal(w, other) for w, other in pairs)


def assert_alike(ties: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> None:
    """Equal up to the order of operations; exact zeros and equal members agree."""
    for members, expected in zip(ties, others, strict=True):
        bounds = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 0.0}[expected[0].dtype]
        assert_close([w.detach() for w in members], list(expected), rtol=bounds, atol=bounds)
        for w, other in zip(members, expected, strict=True):
            assert torch.equal(w == 0.0, other == 0.0)
            assert torch.equal(w == members[0], other == expected[0])


def assert_plain_leaves(
    ties: Sequence[Sequence[Tensor]], grads: Sequence[Sequence[Tensor | None]] = ()
) -> None:
    assert all(
        w.is_leaf and w.requires_grad and w.grad is None for members in ties for w in members
    )
    assert not any(g.requires_grad for grad in grads for g in grad if g is not None)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Tolerances for sums in another order, and gradients rounded to half precision."""
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
            [None if (i + j) % 2 else torch.zeros_like(w) for j, w in enumerate(c.members)]
            for i, c in enumerate(found)
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
        """Enough large and small ties, in any order, for more than one batch."""
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
        ties = [
            [torch.tensor([1.0, 2.0], dtype=d), torch.tensor([3.0, 2.0], dtype=d)] for d in dtypes
        ]
        grads = [[torch.zeros(2, dtype=d), torch.zeros(2)] for d in dtypes]
        add_gradient_(penalty, ties, grads, 1.0)
        pull = [-2.0, 0.0] if penalty is SQUARED else [-1.0, 0.0]
        for (own, wide), dtype in zip(grads, dtypes, strict=True):
            assert (own.dtype, wide.dtype) == (dtype, torch.float32)
            assert_close(own.tolist(), pull)
            assert_close(wide.tolist(), [-p for p in pull])

    @pytest.mark.parametrize(
        "spec", [s for s in SPECS if s.norm == "squared" and s.groups == "element"], ids=str
    )
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
            expected = [
                penalty.prox(w, t, start) for w, t, start in zip(ties, steps, starts, strict=True)
            ]
            assert prox_(penalty, ties, steps, starts) is None
            assert_alike(ties, expected)
            assert_plain_leaves(ties)

    @pytest.mark.parametrize(
        "spec", [s for s in SPECS if s.center == "mean" or s.norm == "squared"], ids=str
    )
    def test_steps_per_member(self, spec):
        found = [c for c in ties_of(spec) if len(c.members) == 2]
        ties, starts = inputs(found)
        steps = [0.3, *([0.1, 0.1 * i] for i in range(1, len(ties)))]
        expected = [c.prox(t) for c, t in zip(found, steps, strict=True)]
        prox_(found[0].penalty, ties, steps, starts)
        assert_alike(ties, expected)

    @each_penalty
    def test_step_zero_is_not_written(self, spec):
        found = ties_of(spec)
        ties, starts = inputs(found)
        steps = [0.0 if i % 2 else 0.3 for i in range(len(ties))]
        steps[1] = [0.0] * len(ties[1])
        prox_(found[0].penalty, ties, steps, starts)
        for i, members in enumerate(ties):
            written = [w._version > 0 for w in members]
            assert not any(written) if i % 2 else all(written[1 if spec.center == "first" else 0 :])

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "mean"], ids=str)
    def test_frozen_member_is_not_written(self, spec):
        c = case(spec, "matrix", 2)
        (members,), starts = inputs([c])
        prox_(c.penalty, [members], [[0.0, 0.5]], starts)
        assert members[0]._version == 0 < members[1]._version
        assert torch.equal(members[0], c.members[0])
        assert_alike([members], [c.prox([0.0, 0.5])])

    @pytest.mark.parametrize("norm", ["l1", "owl"])
    @pytest.mark.parametrize("groups", ["element", "output", "input", "tensor"])
    def test_zeros_have_no_sign(self, norm, groups):
        """Compact files store minus zero as a separate number."""
        penalty = Penalty(norm, groups, "zero", OwlWeights(1.0, 0.1) if norm == "owl" else None)
        w = torch.full((4, 3), -0.5)
        (pure,) = penalty.prox([w], step=100.0)
        prox_(penalty, [[w]], [100.0])
        for zeros in (w, pure):
            assert not zeros.any()
            assert not torch.signbit(zeros).any()

    def test_many_elements(self):
        ties = [
            [torch.full((size,), 3.0), noise([torch.empty(size)], size)[0]]
            for size in (2**18 + 1, 4, 2**17)
        ]
        expected = [L1.prox(members, 0.5) for members in ties]
        prox_(L1, ties, [0.5] * 3)
        assert_close(ties, expected)

    def test_views_and_parameters(self):
        """Rows of a table and a module's parameters are written to, and stay the same objects."""
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
        return Penalty(
            norm, groups, center, (lambda n: owl_weights(n, 0.1, 0.1)) if norm == "owl" else None
        )

    def test_no_ties(self, norm):
        add_gradient_(self.penalty(norm, "element", "mean"), [], [], 0.1)
        prox_(self.penalty(norm, "element", "mean"), [], [])

    @pytest.mark.parametrize(
        ("groups", "center", "members", "message"),
        [
            ("element", "mean", [torch.ones(2), torch.ones(3)], r"one shape, got \(2,\), \(3,\)"),
            ("element", "mean", [torch.ones(2)], "at least 2 members, got 1"),
            (
                "input",
                "mean",
                [torch.ones(2), torch.ones(2)],
                'groups="input" needs tensors of at least 2 dimensions',
            ),
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
        for grads in ([[torch.zeros(2)], []], [[torch.zeros(2)] * 2] * 2):
            with pytest.raises(ValueError, match=r"needs as many grads, got [02]"):
                add_gradient_(penalty, ties, grads, 0.1)
        for steps in ([[0.1], []], [[0.1] * 2] * 2):
            with pytest.raises(ValueError, match=r"needs as many steps, got 2|got 0 steps"):
                prox_(penalty, ties, steps)


def every_case(spec: Spec) -> list[Case]:
    """All members of the zoo; of one number of groups where the weights are for one number."""
    found = cases(spec)
    if spec.row == "owl_tensor":
        common = Counter(c.penalty.weights.numel() for c in found).most_common(1)[0][0]
        found = [c for c in found if c.penalty.weights.numel() == common]
    return found


class TestTogether:
    """The group norms of all ties take the proximal step of OWL in one pass over the host."""

    @pytest.mark.parametrize("spec", [s for s in SPECS if s.norm == "owl"], ids=str)
    def test_equals_each_alone(self, spec):
        found = every_case(spec)
        ties, starts = inputs(found)
        steps = [c.steps(0.1 * (i % 7))[0] for i, c in enumerate(found)]
        expected = [c.prox(t) for c, t in zip(found, steps, strict=True)]
        prox_(found[0].penalty, ties, steps, starts)
        for c, new, old in zip(found, ties, expected, strict=True):
            assert_close([w.detach() for w in new], old, rtol=1e-12, atol=1e-12 * c.scale)

    @pytest.mark.parametrize("groups", ["element", "output", "input", "tensor"])
    @pytest.mark.parametrize("center", ["zero", "mean"])
    def test_empty_ties_and_groups(self, groups, center):
        """Groups of no elements, and ties of no groups, before, between and after others."""
        penalty = Penalty("owl", groups, center, lambda n: torch.linspace(1.0, 0.5, n))
        shapes = [(3, 0), (3, 4), (0, 3), (2, 5), (0, 0)]
        ties = [noise([torch.empty(shape)] * 2, seed=i) for i, shape in enumerate(shapes)]
        expected = [penalty.prox(members, 0.3) for members in ties]
        prox_(penalty, ties, [0.3] * len(ties))
        assert_alike(ties, expected)
        assert_close(ties[1], penalty.prox(noise([torch.empty(3, 4)] * 2, seed=1), 0.3))

    @pytest.mark.parametrize("groups", ["element", "output", "input", "tensor"])
    @pytest.mark.parametrize("norm", ["owl", "l1"])
    @pytest.mark.parametrize("count", [1, 7])
    def test_copies_to_the_host(self, groups, norm, count, monkeypatch):
        """One for OWL, however many ties there are, and none for the others."""
        penalty = Penalty(
            norm, groups, "zero", (lambda n: owl_weights(n, 0.1, 0.1)) if norm == "owl" else None
        )
        ties = [[torch.randn(3, 4 + i)] for i in range(count)]
        held = [empty_group_mask(penalty, members) for members in ties]
        prox_(penalty, ties, [0.1] * count, frozen=held)  # makes the weights
        calls: Counter[str] = Counter()

        def counted(name, original):
            def call(*args, **kwargs):
                calls[name] += 1
                return original(*args, **kwargs)

            return call

        for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__", "nonzero"):
            monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
        prox_(penalty, ties, [0.1 * (i + 1) for i in range(count)], frozen=held)
        monkeypatch.undo()
        assert calls == ({"cpu": 1} if norm == "owl" else {})

    def test_ties_of_different_dtypes(self):
        dtypes = [torch.float32, torch.bfloat16, torch.float64]
        penalty = Penalty("owl", "input", "zero", lambda n: owl_weights(n, 0.1, 0.1))
        ties = [[w.to(d) for w in noise([torch.empty(3, 4)], seed=i)] for i, d in enumerate(dtypes)]
        expected = [penalty.prox(members, 0.7) for members in ties]
        prox_(penalty, ties, [0.7] * 3)
        assert_alike(ties, expected)
        assert [members[0].dtype for members in ties] == dtypes


HOLDING = [s for s in SPECS if s.row in ("l1", "owl_pld") and s.groups != "spectrum"]


class TestHeld:
    @pytest.mark.parametrize("spec", [s for s in HOLDING if s.center == "zero"], ids=str)
    @pytest.mark.parametrize("count", [1, 2])
    def test_equals_a_step_of_members_whose_held_groups_are_zero(self, spec, count):
        found = [case(spec, name, count) for name in ("matrix", "kernel", "noncontiguous")]
        ties, _ = inputs(found)
        penalty, rng = found[0].penalty, torch.Generator().manual_seed(0)
        held = [empty_group_mask(penalty, members) for members in ties]
        for h in held:
            h.copy_(torch.rand(h.shape, generator=rng) < 0.4)
        before = [h.clone() for h in held]
        zeroed = [
            [w.masked_fill(h, 0.0) for w in c.members] for c, h in zip(found, held, strict=True)
        ]
        expected = [penalty.prox(members, 0.2) for members in zeroed]
        prox_(penalty, ties, [0.2] * 3, frozen=held)
        for new, old in zip(ties, expected, strict=True):
            assert_close([w.detach() for w in new], old, rtol=1e-12, atol=1e-12)
        for members, old, new in zip(ties, before, held, strict=True):
            zero = reduce(torch.logical_and, [w == 0.0 for w in members])
            kept = new.expand_as(zero)
            assert torch.equal(kept, zero), "what the step made zero is held from now on"
            assert bool((new | ~old).all()), "what was held stays so"

    def test_the_step_adds_groups_and_not_elements(self):
        penalty, w = (
            Penalty("l1", "input", "zero"),
            torch.tensor([[3.0, 0.1, 0.0], [0.0, 0.1, 0.0]]),
        )
        held = empty_group_mask(penalty, [w])
        prox_(penalty, [[w]], [0.5], frozen=[held])
        # The first column has a zero but is none; the last one was zero before.
        assert held.tolist() == [[False, True, False]]
        w += 1.0
        prox_(penalty, [[w]], [0.1], frozen=[held])
        assert w[:, 1].tolist() == [0.0, 0.0]
        assert bool((w[:, [0, 2]] > 0.5).all())
        assert held.tolist() == [[False, True, False]]

    @pytest.mark.parametrize("spec", [s for s in HOLDING if s.center == "mean"], ids=str)
    def test_at_another_center(self, spec):
        """What is held is at its center, wherever that is."""
        c = case(spec, "matrix", 2)
        held = empty_group_mask(c.penalty, c.members)
        held.view(-1)[0] = True
        (members,), _ = inputs([c])
        prox_(c.penalty, [members], [1e-6], frozen=[held])
        a, b = members
        assert torch.equal(a == b, held.expand_as(a))

    def test_many_elements(self):
        """In blocks."""
        w = noise([torch.empty(2**18 + 5)], seed=0)[0]
        lasso = Penalty("l1", "element", "zero")
        held = empty_group_mask(lasso, [w])
        expected = lasso.prox([w], 0.5)[0]
        prox_(lasso, [[w], [torch.ones(3)]], [0.5, 0.5], frozen=[held, None])
        assert torch.equal(w, expected)
        assert torch.equal(held, expected == 0.0)
        assert 0 < int(held.sum()) < len(w)

    def test_shapes(self):
        w = torch.zeros(2, 3, 4)
        shapes = {
            "element": (2, 3, 4),
            "output": (2, 1, 1),
            "input": (1, 3, 1),
            "tensor": (1, 1, 1),
        }
        for groups, shape in shapes.items():
            assert empty_group_mask(Penalty("l1", groups, "zero"), [w]).shape == shape
        with pytest.raises(ValueError, match='groups="spectrum" are not made of elements'):
            empty_group_mask(Penalty("l1", "spectrum", "zero"), [w])


class TestSharedMemory:
    @pytest.mark.parametrize("as_gradient", [True, False])
    def test_ties_with_a_common_member_are_not_computed_by_two_threads(self, as_gradient):
        """Nor in another order than that of the ties, as proximal steps do not commute."""
        a, b, c, d, e, f = (torch.randn(40, 30) for _ in range(6))
        strided = torch.randn(30, 40).T
        ties = [
            TieTensors(members, [torch.zeros(40, 30) for _ in members], [0.1, 0.1])
            for members in ([a, b], [strided, c], [b, e], [c, d], [d, f])
        ]
        batch = TieBatch(SQUARED if as_gradient else L1, ties)
        fused, others = batch._gradients if as_gradient else batch._proxes
        assert [id(tie) for run in fused for tie in run.ties] == [id(ties[0])]
        assert [id(tie) for tie in others] == [id(tie) for tie in ties[1:]]

    @pytest.mark.parametrize("penalty", [SQUARED, L1], ids=["squared", "l1"])
    def test_a_chain_of_ties(self, penalty):
        members = noise([torch.empty(50)] * 4, seed=0)
        chain = [members[i : i + 2] for i in range(3)]
        expected = [w.clone() for w in members]
        for i in range(3):
            expected[i : i + 2] = penalty.prox(expected[i : i + 2], 0.3)
        prox_(penalty, chain, [0.3] * 3)
        assert_close(members, expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        "spec", [s for s in SPECS if s.norm == "owl" and s.center == "zero"], ids=str
    )
    def test_sorted_weights(self, spec):
        """Norms of all ties are sorted at once, unless an earlier tie moves a member."""
        c = case(spec, "matrix", 1)
        (w,) = c.members
        chain = [[w.clone()] * 1 for _ in range(1)] * 2
        expected = c.penalty.prox(c.penalty.prox([w], 0.1), 0.1)
        prox_(c.penalty, chain, [0.1, 0.1])
        assert_close(chain[0], list(expected))

    @pytest.mark.parametrize("name", ["grads", "frozen"])
    def test_buffers_of_other_shapes_are_refused(self, name):
        penalty = Penalty("squared", "element", "zero") if name == "grads" else LASSO
        mask = torch.zeros(2, 3, dtype=torch.bool)
        given = (
            {"grads": [torch.zeros(2, 3)]} if name == "grads" else {"frozen": mask, "steps": [1.0]}
        )
        with pytest.raises(ValueError, match=name):
            TieBatch(penalty, [TieTensors([torch.ones(4, 3)], **given)])

    def test_a_buffer_that_becomes_too_small_is_not_overrun(self):
        memory = torch.zeros(4, 3)
        tie = TieTensors([torch.ones(4, 3)], grads=[memory])
        batch = TieBatch(Penalty("squared", "element", "zero"), [tie])
        tie.grads = [memory[:2]]
        with pytest.raises(RuntimeError, match="size"):
            batch.add_gradient_(1.0)
        assert not memory.any()


class TestMagnitudes:
    """The step is homogeneous: members and steps times c give results times c."""

    @pytest.mark.parametrize("groups", ["element", "output", "input", "tensor"])
    @pytest.mark.parametrize(
        ("center", "count"), [("zero", 1), ("zero", 2), ("mean", 2), ("mean", 3)]
    )
    @pytest.mark.parametrize(
        ("dtype", "power"),
        [(torch.float32, p) for p in (-110, -60, 60, 110)]
        + [(torch.float64, p) for p in (-900, -500, 500, 900)],
    )
    def test_no_norm_overflows_or_vanishes(self, groups, center, count, dtype, power):
        penalty = Penalty("l1", groups, center)
        members = [w.to(dtype) for w in noise([torch.empty(7, 600)] * count, seed=1)]
        step = 0.5 * float(members[0].norm()) ** (groups != "element")
        expected = penalty.prox([w.double() for w in members], step)
        factor = 2.0**power
        scaled = [w * factor for w in members]
        prox_(penalty, [scaled], [step * factor])
        new = [w / factor for w in scaled]
        assert_close([w.double() for w in new], expected, rtol=3e-6, atol=3e-6)

    def test_a_job_of_subnormal_numbers_beside_one_of_others(self):
        ones = torch.ones(2**15, dtype=torch.float64)
        w = torch.cat([ones, 1e-310 * ones])
        lasso = Penalty("l1", "tensor", "zero")
        expected = lasso.prox([w], 0.005)[0]
        prox_(lasso, [[w]], [0.005])
        assert_close(w, expected)
        assert w[0] > 0.99

    @pytest.mark.parametrize(("center", "count"), [("zero", 1), ("mean", 2)])
    def test_singular_values_of_a_matrix_of_several_blocks(self, center, count):
        """The squares of all singular values sum to those of the elements."""
        members = noise([torch.empty(1024, 600)] * count, seed=2)
        expected = Penalty("squared", "element", center).prox(members, 0.1)
        prox_(Penalty("squared", "spectrum", center), [members], [0.1])
        assert_close(members, expected, rtol=1e-4, atol=1e-4)

    def test_the_sums_of_columns_take_little_memory(self):
        """However many rows there are: each job has a sum for every column."""
        tie = TieTensors([torch.zeros(5000, 40_000, dtype=torch.float32)], steps=[1.0])
        (fused,), _ = TieBatch(Penalty("l1", "input", "zero"), [tie])._proxes
        assert len(fused.jobs.all) <= 16
        assert int(fused.jobs.all[:, 2].sum()) == 5000
