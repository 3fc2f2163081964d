"""The mathematical properties of every penalty, as asserts about one `Case`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

from . import _reference as reference
from ._reference import Array
from ._zoo import Case, shuffle_within_symmetry


def arrays(tensors: Sequence[Tensor] | None) -> list[Array] | None:
    return None if tensors is None else [w.detach().double().numpy() for w in tensors]


def precision(case: Case) -> float:
    """Relative to the largest number: singular values come from squares, with half the digits."""
    return 1e-7 if case.spec.groups == "spectrum" else 1e-12


def reference_value(case: Case, members: Sequence[Tensor]) -> float:
    spec = case.spec
    return reference.value(
        spec.norm, spec.groups, spec.center, arrays(members), case.owl_weights, arrays(case.start)
    )


def assert_value_is_reference(case: Case) -> None:
    value = case.value()
    assert value.shape == ()
    power = 1 if case.spec.homogeneous else 2
    atol = precision(case) * case.scale**power
    assert_close(value.item(), reference_value(case, case.members), rtol=precision(case), atol=atol)


def assert_gradcheck(case: Case) -> None:
    """The backward pass of the value is its derivative. With center "first", W_1 is a constant."""
    fixed = case.members[: case.moving.start or 0]
    moving = [w.clone().requires_grad_() for w in case.members[case.moving]]
    assert torch.autograd.gradcheck(
        lambda *ws: case.penalty.value([*fixed, *ws], case.start), moving
    )


def assert_backward_is_gradient(case: Case) -> None:
    """Added to a loss, the penalty pulls by strength times gradient, also in chains and reuse."""
    members = [w.clone().requires_grad_() for w in case.members]
    (2.5 * case.penalty.value(members, case.start)).backward()
    for w, pull in zip(members, case.gradient(), strict=True):
        assert_close(w.grad, 2.5 * pull)
        assert not pull.requires_grad


def assert_subgradient(case: Case, at: Sequence[Tensor], pulls: Sequence[Tensor]) -> None:
    r"""``pulls`` is in the subdifferential of the penalty at the point ``at``.

    For the squared penalty: it is s²·(W − c). The others are norms of the deviations, for which G
    is a subgradient exactly if it is a direction that can move deviations, ⟨G, W⟩ = Ω(W), and the
    polar norm of G is at most 1.
    """
    spec, tolerance = case.spec, 10 * precision(case)
    row = (spec.norm, spec.groups, spec.center)
    devs = reference.deviations(*row, arrays(at), arrays(case.start))
    scale = reference.scale(*row, arrays(at))
    pulls = arrays(pulls)
    assert all(np.isfinite(pull).all() for pull in pulls)
    if spec.norm == "squared":
        for pull, dev in zip(pulls, devs, strict=True):
            np.testing.assert_allclose(pull, scale * dev, rtol=0, atol=tolerance * case.scale)
        return
    if spec.center == "mean":
        np.testing.assert_allclose(sum(pulls), 0.0, rtol=0, atol=tolerance)
    if spec.center == "first":
        np.testing.assert_allclose(pulls[0], 0.0, rtol=0, atol=0)
    product = sum(np.sum(pull * dev) for pull, dev in zip(pulls, devs, strict=True)) / scale
    norms = reference.group_norms(spec.groups, devs)
    expected = reference.norm(spec.norm, norms, case.owl_weights)
    np.testing.assert_allclose(product, expected, rtol=tolerance, atol=tolerance * case.scale)
    polar = reference.polar(
        spec.norm,
        reference.group_norms(spec.groups, [pull / scale for pull in pulls]),
        case.owl_weights,
    )
    assert polar <= 1.0 + tolerance


def assert_gradient_is_subgradient(case: Case) -> None:
    assert_subgradient(case, case.members, case.gradient())


def assert_gradient_of_equal_members_is_zero(case: Case) -> None:
    """Where nothing deviates, the gradient is zero and never NaN, as after equal initialisation."""
    for pull in [*case.gradient(), *_autograd(case)]:
        assert torch.equal(pull, torch.zeros_like(pull))


def _autograd(case: Case) -> Sequence[Tensor]:
    members = [w.clone().requires_grad_() for w in case.members]
    return torch.autograd.grad(case.penalty.value(members, case.start), members)


def assert_prox_is_optimal(case: Case, step: float) -> None:
    """0 ∈ (V − W)/t + ∂Ω(V)."""
    moved = case.prox(step)
    assert_subgradient(
        case, moved, [(w - v) / step for w, v in zip(case.members, moved, strict=True)]
    )


def assert_prox_beats_others(case: Case, step: float) -> None:
    """The objective is strongly convex: any other point U is worse by at least ‖U − V‖²/(2t)."""
    moved = case.prox(step)

    def objective(point: Sequence[Tensor]) -> float:
        return squared_distance(point, case.members) / (2.0 * step) + reference_value(case, point)

    best = objective(moved)
    rng = torch.Generator().manual_seed(0)
    centers = reference.centers(case.spec.center, arrays(case.members), arrays(case.start))
    others = [case.members, [torch.from_numpy(c) for c in centers]]
    for size in (1e-3, 0.1, 1.0):
        others.append(
            [
                v + size * case.scale * torch.randn(v.shape, generator=rng, dtype=v.dtype)
                for v in moved
            ]
        )
    for other in others:
        if case.spec.center == "first":  # a constant
            other = [case.members[0], *other[1:]]
        slack = precision(case) * (best + objective(other))
        assert objective(other) >= best + squared_distance(other, moved) / (2.0 * step) - slack


def squared_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum((x - y).square().sum().item() for x, y in zip(a, b, strict=True))


def assert_prox_undoes_gradient_step(case: Case, step: float) -> None:
    """Where the penalty is smooth, V + t·∇Ω(V) = W."""
    moved = case.prox(step)
    for w, v, pull in zip(
        case.members, moved, case.penalty.gradient(moved, case.start), strict=True
    ):
        assert_close(v + step * pull, w, rtol=0, atol=10 * precision(case) * case.scale)


def cvxpy_difference(case: Case, steps: float | Sequence[float]) -> float:
    """The largest distance of an element of the prox from what CVXPY finds."""
    spec = case.spec
    each = [steps] * len(case.members) if isinstance(steps, float) else steps
    expected = reference.solve_prox(
        spec.norm,
        spec.groups,
        spec.center,
        arrays(case.members),
        each,
        case.owl_weights,
        arrays(case.start),
    )
    return max(
        float(np.abs(v - e).max()) for v, e in zip(arrays(case.prox(steps)), expected, strict=True)
    )


def assert_prox_firmly_nonexpansive(case: Case, step: float) -> None:
    """‖P(x) − P(y)‖² ≤ ⟨P(x) − P(y), x − y⟩, for the same center where that is a constant."""
    rng = torch.Generator().manual_seed(0)
    for size in (1e-2, 1.0):
        others = [
            w + size * case.scale * torch.randn(w.shape, generator=rng, dtype=w.dtype)
            for w in case.members
        ]
        others[: case.moving.start or 0] = case.members[: case.moving.start or 0]
        moved, moved_others = case.prox(step), case.penalty.prox(others, step, case.start)
        product = sum(
            torch.sum((p - q) * (x - y)).item()
            for p, q, x, y in zip(moved, moved_others, case.members, others, strict=True)
        )
        slack = precision(case) * squared_distance(case.members, others)
        assert squared_distance(moved, moved_others) <= product + slack


def assert_prox_of_zero_step_is_identity(case: Case) -> None:
    for w, v in zip(case.members, case.prox(0.0), strict=True):
        assert_close(v, w, rtol=0, atol=precision(case) * case.scale)


def assert_larger_steps_move_closer(case: Case, steps: Sequence[float]) -> None:
    def distance(members: Sequence[Tensor]) -> float:
        row = (case.spec.norm, case.spec.groups, case.spec.center)
        devs = reference.deviations(*row, arrays(members), arrays(case.start))
        return float(np.sqrt(sum(np.sum(d**2) for d in devs)))

    before = distance(case.members)
    assert before > 0.0
    for step in steps:
        after = distance(case.prox(step))
        assert after < before or after <= precision(case) * case.scale
        before = after
    if case.spec.homogeneous:  # the last step is large enough to reach the center
        assert after <= precision(case) * case.scale


def assert_groups_exactly_at_center(case: Case, step: float) -> int:
    """Exactly where r_g = 0, members equal their center bit by bit; return how many groups do."""
    spec, members = case.spec, arrays(case.members)
    row = (spec.norm, spec.groups, spec.center)
    devs = reference.deviations(*row, members, arrays(case.start))
    size = step * reference.scale(*row, members) ** 2
    norms = reference.group_norms(spec.groups, devs)
    remaining = reference.prox_norm(spec.norm, norms, size, case.owl_weights)
    labels = reference.group_labels(spec.groups, members[0].shape)
    moved = case.prox(step)
    point = {"zero": None, "mean": [moved[0]], "first": [case.members[0]], "start": case.start}[
        spec.center
    ]
    point = (
        [torch.zeros_like(v) for v in moved]
        if point is None
        else point * (len(moved) // len(point))
    )
    for g, r in enumerate(remaining):
        where = torch.from_numpy(labels == g)
        assert all(torch.equal(v[where], c[where]) for v, c in zip(moved, point, strict=True)) == (
            r == 0.0
        )
    return int(np.sum(remaining == 0.0))


def assert_members_permute(case: Case, step: float) -> None:
    """The order of the members (after the first, if the others follow it) does not matter."""
    leader = case.moving.start or 0
    order = [*range(leader), *reversed(range(leader, len(case.members)))]

    def permuted(tensors: list[Tensor] | None) -> list[Tensor] | None:
        return None if tensors is None else [tensors[i] for i in order]

    members, start = permuted(case.members), permuted(case.start)
    tolerance = {"rtol": precision(case), "atol": 10 * precision(case)}
    assert_close(case.penalty.value(members, start), case.value(), **tolerance)
    assert_close(case.penalty.gradient(members, start), permuted(case.gradient()), **tolerance)
    assert_close(case.penalty.prox(members, step, start), permuted(case.prox(step)), **tolerance)


def assert_elements_permute(case: Case, step: float, seed: int = 0) -> None:
    """A permutation of elements within groups, and of groups, permutes the result."""
    shuffle = shuffle_within_symmetry(case.spec, case.members[0].shape, len(case.members), seed)
    shuffled = case.map(shuffle)
    tolerance = {"rtol": precision(case), "atol": 10 * precision(case)}
    assert_close(shuffled.value(), case.value(), **tolerance)
    assert_close(shuffled.gradient(), [shuffle(pull) for pull in case.gradient()], **tolerance)
    assert_close(shuffled.prox(step), [shuffle(v) for v in case.prox(step)], **tolerance)


def assert_scales(case: Case, step: float, times: float) -> None:
    """Ω(c·W) = |c|·Ω(W), or c²·Ω(W) if squared; gradient and prox accordingly."""
    scaled = case.map(lambda w: times * w, scale=abs(times))
    degree = 1 if case.spec.homogeneous else 2
    sign = 1.0 if times > 0.0 else -1.0
    rtol = 10 * precision(case)
    assert_close(scaled.value(), abs(times) ** degree * case.value(), rtol=rtol, atol=0)
    for new, old in zip(scaled.gradient(), case.gradient(), strict=True):
        assert_close(
            new,
            sign * abs(times) ** (degree - 1) * old,
            rtol=rtol,
            atol=rtol * abs(times) ** (degree - 1),
        )
    scaled_step = step * abs(times) ** (2 - degree)
    for new, old in zip(scaled.prox(scaled_step), case.prox(step), strict=True):
        assert_close(new, times * old, rtol=rtol, atol=rtol * abs(times))


def assert_computed_in_float32(case: Case, step: float, dtype: torch.dtype) -> None:
    """Half precision gives the float32 result, rounded once; float32 agrees with float64."""
    low = case.to(dtype)
    wide = low.to(torch.float32)
    assert torch.equal(low.value(), wide.value())
    for new, exact in zip(
        [*low.gradient(), *low.prox(step)], [*wide.gradient(), *wide.prox(step)], strict=True
    ):
        assert new.dtype == dtype
        assert torch.equal(new, exact.to(dtype))
    double = low.to(torch.float64)
    tolerance = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    assert_close(wide.value(), double.value(), **tolerance)
    assert_close(wide.prox(step), double.prox(step), **tolerance)
    # A direction D / ‖D‖ has fewer digits where members are close to each other.
    assert_close(wide.gradient(), double.gradient(), rtol=0, atol=1e-4, check_dtype=False)


def assert_pure(case: Case, step: float) -> None:
    """Inputs are unchanged, results are new tensors like the members, without autograd graph."""
    given = [w.requires_grad_() for w in case.map(torch.Tensor.clone).members]
    start = None if case.start is None else [s.clone() for s in case.start]
    inputs = [*given, *(start or [])]
    before, versions = [w.detach().clone() for w in inputs], [w._version for w in inputs]
    case.penalty.value(given, start).backward()
    results = [
        case.penalty.gradient(given, start),
        *(case.penalty.prox(given, t, start) for t in (0.0, step)),
    ]
    storages = {w.untyped_storage().data_ptr() for w in inputs}
    for result in results:
        assert len(result) == len(given)
        for new, w in zip(result, given, strict=True):
            assert (new.shape, new.dtype, new.requires_grad) == (w.shape, w.dtype, False)
            assert new.untyped_storage().data_ptr() not in storages
            storages.add(new.untyped_storage().data_ptr())
    assert versions == [w._version for w in inputs]
    assert all(torch.equal(w, b) for w, b in zip(inputs, before, strict=True))
