from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lit_share.functional import OwlWeights, Penalty, owl_weights

from . import _asserts as asserts
from ._zoo import GROUPS, NORMS, SMOOTH, SPECS, Case, Spec, case, cases, each_penalty


@each_penalty
def test_value(spec):
    for c in cases(spec):
        asserts.assert_value_is_reference(c)


@each_penalty
def test_gradcheck(spec):
    for c in cases(spec, "vector", "tall matrix", "noncontiguous", "small kernel"):
        asserts.assert_gradcheck(c)
        asserts.assert_backward_is_gradient(c)


@each_penalty
def test_gradient_is_subgradient(spec):
    for c in cases(spec):
        asserts.assert_gradient_is_subgradient(c)


@each_penalty
def test_gradient_of_equal_members_is_zero(spec):
    for c in cases(spec, "zeros" if spec.center == "zero" else "equal"):
        asserts.assert_gradient_of_equal_members_is_zero(c)


@each_penalty
def test_prox_is_optimal(spec):
    for c in cases(spec):
        for step in c.steps(0.01, 0.3, 30.0):
            asserts.assert_prox_is_optimal(c, step)


@each_penalty
def test_prox_beats_others(spec):
    for c in cases(spec, "vector", "kernel", "tied norms", "huge"):
        for step in c.steps(0.3, 30.0):
            asserts.assert_prox_beats_others(c, step)


@each_penalty
def test_prox_undoes_gradient_step(spec):
    for c in cases(spec, *SMOOTH):
        asserts.assert_prox_undoes_gradient_step(c, 1e-4)


@each_penalty
def test_prox_is_what_cvxpy_finds(spec):
    for c in [*cases(spec, "small matrix"), *cases(spec, "small kernel", counts=[2])]:
        assert asserts.cvxpy_difference(c, 0.3) <= 1e-5


@each_penalty
def test_prox_is_firmly_nonexpansive(spec):
    for c in cases(spec, "matrix", "tied norms", "huge"):
        for step in c.steps(0.3):
            asserts.assert_prox_firmly_nonexpansive(c, step)


@each_penalty
def test_prox_steps(spec):
    for c in cases(spec, "vector", "kernel", "tiny", "huge", "tied norms", "noncontiguous"):
        asserts.assert_prox_of_zero_step_is_identity(c)
        asserts.assert_larger_steps_move_closer(c, c.steps(1e-3, 0.1, 0.3, 1.0, 30.0, 60.0))


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.homogeneous and s.groups not in ("tensor", "spectrum")], ids=str
)
def test_prox_makes_some_groups_exactly_equal(spec):
    reached = {False: 0, True: 0}
    for c in cases(spec, "vector", "matrix", "kernel", "zero groups", "tiny"):
        for step in c.steps(0.1, 0.3, 1.0, 3.0):
            at_center = asserts.assert_groups_exactly_at_center(c, step)
            reached[
                0
                < at_center
                < len(asserts.reference.group_norms(spec.groups, asserts.arrays(c.members)))
            ] += 1
    assert reached[True] > 3, (
        "the steps should be so that some groups reach the center, and others not"
    )


@pytest.mark.parametrize("spec", [s for s in SPECS if s.homogeneous], ids=str)
def test_prox_makes_members_exactly_equal(spec):
    for c in cases(spec, "vector", "matrix", "noncontiguous"):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            low = c.to(dtype)
            moved = low.prox(100.0)
            expected = {
                "zero": [torch.zeros_like(w) for w in moved],
                "first": [low.members[0]] * len(moved),
            }
            expected |= {"mean": [moved[0]] * len(moved), "start": low.start}
            assert all(torch.equal(v, e) for v, e in zip(moved, expected[spec.center], strict=True))


@each_penalty
def test_permutations(spec):
    for c in cases(spec, *SMOOTH):
        asserts.assert_members_permute(c, 0.3)
        asserts.assert_elements_permute(c, 0.3)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.center == "first"], ids=str)
def test_first_member_stays(spec):
    for c in cases(spec):
        for step in c.steps(0.01, 0.3, 30.0):
            assert torch.equal(c.prox(step)[0], c.members[0])
        assert torch.equal(c.gradient()[0], torch.zeros_like(c.members[0]))


@each_penalty
def test_scaling(spec):
    for c in cases(spec, "vector", "kernel"):
        for times in (3.0, -0.5, 1e8, 1e-12):
            asserts.assert_scales(c, 0.3, times)


@each_penalty
def test_half_precision_is_computed_in_float32(spec):
    for c in cases(spec, "vector", "kernel"):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            asserts.assert_computed_in_float32(c, 0.3, dtype)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
def test_value_is_in_float32_or_wider(groups, dtype):
    for row in NORMS:
        for c in cases(Spec(row, groups, "mean"), "matrix"):
            assert c.to(dtype).value().dtype == torch.promote_types(dtype, torch.float32)


@each_penalty
def test_pure(spec):
    for c in cases(spec, "matrix", "equal", "kernel"):
        asserts.assert_pure(c, 0.3)


@each_penalty
def test_pickle_and_copy(spec):
    (original, *_) = cases(spec, "matrix")
    original.value()
    for penalty in (pickle.loads(pickle.dumps(original.penalty)), copy.deepcopy(original.penalty)):
        assert torch.equal(penalty.value(original.members, original.start), original.value())
        assert repr(penalty) == repr(original.penalty)


@st.composite
def any_case(draw) -> Case:
    """Any penalty on members of few and many digits, so that zeros and ties are frequent."""
    spec = draw(st.sampled_from(SPECS))
    count = draw(st.integers(1 if spec.center in ("zero", "start") else 2, 3))
    shape = draw(
        st.sampled_from([(2,), (4,), (2, 2), (3, 2), (2, 3), (2, 2, 2)]).filter(
            lambda s: spec.fits(s, count)
        )
    )
    number = st.integers(-2, 2).map(float) | st.floats(-3.0, 3.0, allow_subnormal=False)
    numbers = draw(st.lists(number, min_size=2 * count * 8, max_size=2 * count * 8))
    table = torch.tensor(numbers, dtype=torch.float64).view(2, count, 8)[..., : int(np.prod(shape))]
    members, start = ([row.view(shape) for row in part] for part in table)
    return Case(spec, "drawn", members, start if spec.center == "start" else None)


@given(any_case(), st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_any_case(c, step):
    asserts.assert_value_is_reference(c)
    asserts.assert_prox_is_optimal(c, step)
    asserts.assert_prox_firmly_nonexpansive(c, step)


class TestSpectrum:
    """With center "mean", deviations sum to zero: their matrix never has full rank."""

    specs = pytest.mark.parametrize(
        "spec",
        [s for s in SPECS if s.homogeneous and (s.groups, s.center) == ("spectrum", "mean")],
        ids=str,
    )

    @specs
    @pytest.mark.parametrize(
        ("dtype", "spread"),
        [(torch.float64, 1.0), (torch.float64, 1e-10), (torch.float32, 1.0), (torch.float32, 1e-3)],
        ids=str,
    )
    def test_gradients_sum_to_zero(self, spec, dtype, spread):
        rng = torch.Generator().manual_seed(0)
        for count in (2, 3, 4):
            common = torch.randn(20, 30, generator=rng, dtype=dtype)
            members = [
                common + spread * torch.randn(20, 30, generator=rng, dtype=dtype)
                for _ in range(count)
            ]
            pulls = spec.penalty((20, 30), count).gradient(members)
            assert all(pull.isfinite().all() and pull.norm() > 0.1 for pull in pulls)
            assert sum(pulls).norm() <= 1e-3 * pulls[0].norm()

    def test_pair_has_one_singular_value(self):
        c = case(Spec("l1", "spectrum", "mean"), "matrix", 2)
        a, b = c.members
        assert_close(c.value(), torch.linalg.vector_norm(a - b))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=["wide", "tall"])
    def test_small_singular_values_count(self, dtype, shape):
        """Not lost in the squares, which would hide them in float32."""
        rng = torch.Generator().manual_seed(0)
        u, _, v = torch.linalg.svd(
            torch.randn(shape, generator=rng, dtype=torch.float64), full_matrices=False
        )
        matrix = (u @ torch.diag(torch.tensor([1.0, 1e-3, 1e-5], dtype=torch.float64)) @ v).to(
            dtype
        )
        expected = torch.linalg.svdvals(matrix.double()).sum().to(dtype)
        penalty = Penalty("l1", "spectrum", "zero")
        for members in ([matrix], list(matrix)) if shape == (3, 5) else ([matrix],):
            assert_close(penalty.value(members), expected, rtol=0, atol=2e-7, check_dtype=False)

    def test_rank_falls(self):
        """A larger step leaves fewer singular values: members are combinations of fewer tensors."""
        c = case(Spec("l1", "spectrum", "zero"), "kernel", 3)
        singular = torch.linalg.svdvals(torch.stack([w.flatten() for w in c.members]))
        for rank, step in (
            (2, (singular[1] + singular[2]) / 2),
            (1, (singular[0] + singular[1]) / 2),
        ):
            moved = torch.stack([v.flatten() for v in c.prox(step.item())])
            assert torch.linalg.matrix_rank(moved, rtol=1e-10).item() == rank


class TestWeights:
    def test_one_penalty_takes_layers_of_all_sizes(self):
        """A function of the number of groups is asked once for each number."""
        asked = []

        def weights(n: int) -> torch.Tensor:
            asked.append(n)
            return owl_weights(n, lambda1=0.0, lambda2=1.0)

        penalty = Penalty("owl", "output", "zero", weights)
        for _ in range(2):
            assert penalty.value([torch.tensor([[1.0], [-3.0]])]).item() == 2 * 3 + 1 * 1
            assert (
                penalty.value([torch.tensor([[1.0], [-3.0], [2.0]])]).item()
                == 3 * 3 + 2 * 2 + 1 * 1
            )
        assert asked == [2, 3]

    def test_list(self):
        penalty = Penalty("owl", "element", "zero", [2.0, 0.5])
        assert penalty.value([torch.tensor([1.0, -4.0])]).item() == 2.0 * 4.0 + 0.5 * 1.0

    def test_constant_weights_are_l1(self):
        for c in cases(Spec("l1", "output", "mean"), "matrix", "kernel"):
            owl = Penalty("owl", "output", "mean", OwlWeights(lambda1=1.0, lambda2=0.0))
            assert_close(owl.value(c.members), c.value())
            assert_close(owl.gradient(c.members), c.gradient())
            assert_close(owl.prox(c.members, 0.3), c.prox(0.3))


class TestScale:
    """Groups of p elements count √p-fold, in all that a penalty does."""

    @pytest.mark.parametrize("norm", ["l1", "owl_pld"])
    @pytest.mark.parametrize(
        ("groups", "size"), [("element", 1), ("output", 4), ("input", 3), ("tensor", 12)]
    )
    @pytest.mark.parametrize("center", ["zero", "mean", "first", "start"])
    def test_is_the_root_of_the_size(self, norm, groups, size, center):
        c = case(Spec(norm, groups, center), "matrix", 2)
        plain, root = replace(c.penalty, scaled=False), size**0.5
        rest = (c.members, c.start)
        assert_close(c.value(), root * plain.value(*rest))
        assert_close(c.gradient(), [root * g for g in plain.gradient(*rest)])
        assert_close(c.prox(0.1), plain.prox(c.members, 0.1 * root, c.start))

    def test_of_a_pair_with_different_steps(self):
        c = case(Spec("l1", "tensor", "mean"), "matrix", 2)
        plain = replace(c.penalty, scaled=False)
        root = 12**0.5
        assert_close(c.prox([0.1, 0.3]), plain.prox(c.members, [0.1 * root, 0.3 * root]))

    @pytest.mark.parametrize("edges", ["all", "chain", "adaptive", "star", [(0, 1, 2.0), (1, 2)]])
    @pytest.mark.parametrize("count", [2, 3])
    def test_of_edges(self, edges, count):
        c = case(Spec("l1", "output", "mean"), "matrix", count)
        edges = edges[: count - 1] if isinstance(edges, list) else edges
        scaled = Penalty("l1", "output", "graph", edges=edges)
        plain = replace(scaled, scaled=False)
        assert_close(scaled.value(c.members), 2.0 * plain.value(c.members))
        assert_close(scaled.gradient(c.members), [2.0 * g for g in plain.gradient(c.members)])
        assert_close(scaled.prox(c.members, 0.1), plain.prox(c.members, 0.2))

    @pytest.mark.parametrize("groups", GROUPS)
    def test_squared_norms_and_singular_values_have_none(self, groups):
        for norm in ("squared", "l1") if groups == "spectrum" else ("squared",):
            c = case(Spec(norm, groups, "mean"), "matrix", 2)
            plain = replace(c.penalty, scaled=False)
            assert torch.equal(c.value(), plain.value(c.members))
            assert_close(c.prox(0.1), plain.prox(c.members, 0.1), rtol=0, atol=0)

    def test_must_be_a_bool(self):
        """The text "false" of a config would be true."""
        with pytest.raises(TypeError, match="scaled must be True or False, got 'false'"):
            Penalty("l1", "tensor", "mean", scaled="false")


def test_start_can_be_kept_in_another_dtype():
    """Half-precision members, the checkpoint they started from in float32."""
    members, start = [torch.tensor([1.0, 2.0], dtype=torch.bfloat16)], [torch.tensor([1.001, 1.0])]
    penalty = Penalty("squared", "element", "start")
    (pull,) = penalty.gradient(members, start)
    assert_close(pull, torch.tensor([-0.001, 1.0], dtype=torch.bfloat16))
    for kept in (start, [start[0].double()]):
        assert penalty.value(members, kept).dtype == torch.float32
    assert penalty.prox(members, 0.1, start)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("norm", ["squared", "l1"])
@pytest.mark.parametrize("count", [1, 2])
def test_empty_members(norm, groups, count):
    """A rank of a sharded run can hold no rows of a parameter."""
    penalty = Penalty(norm, groups, "zero")
    members = [torch.zeros(0, 3) for _ in range(count)]
    assert penalty.value(members).item() == 0.0
    assert [v.shape for v in penalty.gradient(members)] == [(0, 3)] * count
    assert [v.shape for v in penalty.prox(members, 0.1)] == [(0, 3)] * count


class TestErrors:
    @pytest.mark.parametrize(
        ("key", "known"),
        [
            ("norm", ["squared", "l1", "owl"]),
            ("groups", ["element", "output", "input", "tensor", "spectrum"]),
            ("center", ["zero", "mean", "first", "start"]),
        ],
    )
    def test_unknown_name(self, key, known):
        names = {"norm": "l1", "groups": "element", "center": "zero"} | {key: "l3"}
        with pytest.raises(ValueError, match=f"unknown {key} 'l3'") as error:
            Penalty(**names)
        assert all(repr(name) in str(error.value) for name in known)

    def test_weights_missing(self):
        with pytest.raises(ValueError, match=r"norm='owl' needs weights=.*OwlWeights"):
            Penalty("owl", "element", "zero")

    @pytest.mark.parametrize("norm", ["squared", "l1"])
    def test_weights_not_wanted(self, norm):
        with pytest.raises(
            ValueError, match=f"weights= belong to norm=\"owl\"; norm='{norm}' has none"
        ):
            Penalty(norm, "element", "zero", torch.ones(2))

    @pytest.mark.parametrize("center", ["mean", "first"])
    def test_too_few_members(self, center):
        message = f"center='{center}' needs at least 2 members, got 1.*pattern for each model"
        assert_refused(Penalty("l1", "element", center), [torch.ones(2)], message)

    def test_no_members(self):
        with pytest.raises(ValueError, match="needs at least 1 members, got 0"):
            Penalty("l1", "element", "zero").check([])

    def test_different_shapes(self):
        message = re.escape("members must have one shape, got (2, 3), (3, 2)")
        assert_refused(
            Penalty("l1", "element", "mean"), [torch.ones(2, 3), torch.ones(3, 2)], message
        )

    @pytest.mark.parametrize(
        ("groups", "shape", "least"), [("output", (), 1), ("input", (4,), 2), ("spectrum", (4,), 2)]
    )
    def test_too_few_dimensions(self, groups, shape, least):
        message = re.escape(
            f'groups="{groups}" needs tensors of at least {least} dimensions, not of shape {shape}'
        )
        assert_refused(
            Penalty("l1", groups, "zero"),
            [torch.ones(shape)],
            f"{message}.*min_ndim=.*other groups",
        )

    @pytest.mark.parametrize("norm", ["squared", "l1"])
    @pytest.mark.parametrize(
        "start",
        [None, [], [torch.ones(2)], [torch.ones(2), torch.ones(3)]],
        ids=["none", "empty", "one", "shape"],
    )
    def test_start_missing(self, norm, start):
        members = [torch.ones(2), torch.ones(2)]
        assert_refused(
            Penalty(norm, "element", "start"), members, 'center="start".*pass start=, one', start
        )

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (torch.ones(3), r"one weight per group: 2 groups, but weights of shape \(3,\)"),
            (
                lambda n: torch.ones(n + 1),
                r"one weight per group: 2 groups, but weights of shape \(3,\)",
            ),
            (torch.ones(2, 1), r"one weight per group: 2 groups, but weights of shape \(2, 1\)"),
            ([1.0, float("nan")], "OWL weights must be finite"),
            ([float("inf"), 1.0], "OWL weights must be finite"),
            ([1.0, -1.0], "OWL weights must be non-negative and non-increasing"),
            ([1.0, 2.0], "OWL weights must be non-negative and non-increasing"),
        ],
    )
    def test_weights_not_valid(self, weights, message):
        assert_refused(Penalty("owl", "output", "zero", weights), [torch.ones(2, 3)], message)


def assert_refused(penalty, members, message, start=None):
    """Every method refuses the members with the same words."""
    for call in (
        lambda: penalty.value(members, start),
        lambda: penalty.gradient(members, start),
        lambda: penalty.prox(members, 0.1, start),
    ):
        with pytest.raises(ValueError, match=message):
            call()
