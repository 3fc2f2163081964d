"""The penalty: norm ∘ groups ∘ (weights − center)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_share.functional._centers import CENTERS, CenterName
from lit_share.functional._groups import GROUPS, GroupsName, Split
from lit_share.functional._norms import NORMS, NormName
from lit_share.functional._owl import check_owl_weights
from lit_share.functional._owl_weights import OwlWeights
from lit_share.functional._shards import Part, Shards
from lit_share.functional._steps import common_step, prox_of_pair, prox_of_squared

# `OwlWeights` is such a function; named, LightningCLI finds it.
Weights = Tensor | Sequence[float] | OwlWeights | Callable[[int], Tensor]


@dataclass(frozen=True, eq=False)
class Penalty:
    r"""A penalty on the *members* of a tie: N ≥ 1 tensors of one shape that ought to be alike, or small.

    .. math::
        \Omega(W_1, \dots, W_N) = \omega(n), \qquad
        n_g = \lVert D_g \rVert_2, \qquad
        D_i = s\,(W_i - c_i)

    The *center* c is what members are pulled towards, the *groups* g partition the elements of the deviations D (the
    member axis is always inside a group), and the *norm* :math:`\omega` decides what becomes exactly zero.

    Args:
        norm: ``"squared"`` (½Σn²: pulls softly), ``"l1"`` (Σn: makes whole groups exactly equal to the center) or
            ``"owl"`` (Σ w_k n_(k), n in descending order: also makes the norms of groups equal).
        groups: ``"element"``, ``"output"`` (dim 0: an output unit or filter), ``"input"`` (dim 1: an input unit or
            channel), ``"tensor"`` or ``"spectrum"`` (singular values).
        center: ``"zero"``, ``"mean"`` of the members, ``"first"`` (the first member, which stays), or ``"start"``
            (the member's own value when training began).
        weights: For ``"owl"`` only: a tensor with one weight per group, or a function from the number of groups to
            such a tensor: ``OwlWeights(lambda1=1.0, lambda2=0.1)``.

    Raises:
        ValueError: If a name is unknown, or ``weights`` are missing or not wanted.

    Example:
        Two models whose weights ought to be alike: half the squared distance, and its pull.

        >>> import torch
        >>> soft_tie = Penalty(norm="squared", groups="element", center="mean")
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
        >>> soft_tie.value([a, b])
        tensor(2.0000)
        >>> soft_tie.gradient([a, b])
        [tensor([ 0., -2.]), tensor([0., 2.])]

        The same distance, element by element and not squared, makes them exactly equal:

        >>> exact_tie = Penalty(norm="l1", groups="element", center="mean")
        >>> exact_tie.prox([a, b], step=1.5)
        [tensor([1., 3.]), tensor([1., 3.])]

    Source:
        Parikh, Boyd: *Proximal Algorithms*, Foundations and Trends in Optimization 2014, Sections 2 and 6; Bach,
        Jenatton, Mairal, Obozinski: *Optimization with Sparsity-Inducing Penalties*, 2012, Section 3. Those of the
        usual penalties stand in `RECIPES`.
    """

    norm: NormName
    groups: GroupsName
    center: CenterName
    weights: Weights | None = None
    _weights_of: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for key, name, known in (
            ("norm", self.norm, get_args(NormName)),
            ("groups", self.groups, get_args(GroupsName)),
            ("center", self.center, get_args(CenterName)),
        ):
            if name not in known:
                raise ValueError(
                    f"unknown {key} {name!r}: write one of {', '.join(map(repr, known))}"
                )
        if NORMS[self.norm].weighted and self.weights is None:
            raise ValueError(
                f"norm={self.norm!r} needs weights=: a tensor with one weight per group, or a function of the number "
                "of groups such as lit_share.OwlWeights(lambda1=1.0, lambda2=0.1)"
            )
        if not NORMS[self.norm].weighted and self.weights is not None:
            raise ValueError(f'weights= belong to norm="owl"; norm={self.norm!r} has none')

    @property
    def is_smooth(self) -> bool:
        """Whether the penalty is differentiable everywhere, so that its gradient alone serves it well."""
        return NORMS[self.norm].smooth

    @property
    def is_separable(self) -> bool:
        """Whether every element has a penalty of its own, so that tensors can be taken block by block."""
        return GROUPS[self.groups].elementwise and not NORMS[self.norm].weighted

    def crosses(self, ndim: int, dim: int) -> bool:
        """Whether groups are divided where members of ``ndim`` dimensions are, along ``dim``.

        Args:
            ndim: Number of dimensions of each member.
            dim: One of them.

        Returns:
            Whether the norm of a group needs all parts of the members.

        Example:
            >>> [Penalty(norm="l1", groups="input", center="zero").crosses(2, dim) for dim in (0, 1)]
            [True, False]
        """
        return GROUPS[self.groups].crosses(ndim, dim)

    def value(self, members: Sequence[Tensor], start: Sequence[Tensor] | None = None) -> Tensor:
        r"""The penalty :math:`\Omega`; it can be added to a loss.

        Its backward pass is `gradient`, so it is finite and zero where deviations are zero.

        Args:
            members: N tensors of one shape, dtype and device.
            start: With ``center="start"``, the members' starting values.

        Returns:
            Scalar tensor, in float32 or the members' dtype if that is wider.

        Raises:
            ValueError: If the members do not fit the penalty; see `check`.
        """
        value: Tensor = _Value.apply(self, start, *members)
        return value

    @torch.no_grad()
    def gradient(
        self, members: Sequence[Tensor], start: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        r"""The gradient of `value`, in closed form.

        .. math::
            \nabla_{W_i} \Omega = s \, \frac{\omega'(n_g)}{n_g} \, D_i \quad \text{on group } g,
            \qquad 0 \text{ where } n_g = 0

        Args:
            members: N tensors of one shape, dtype and device.
            start: With ``center="start"``, the members' starting values.

        Returns:
            New tensors like ``members``; where :math:`\omega` has a kink, one of its subgradients.

        Raises:
            ValueError: If the members do not fit the penalty; see `check`.
        """
        return gradient_of(self, members, start)

    @torch.no_grad()
    def prox(
        self,
        members: Sequence[Tensor],
        step: float | Sequence[float],
        start: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        r"""The proximal operator of ``step`` times the penalty, in closed form.

        .. math::
            \operatorname{prox}(W) = \arg\min_V \sum_i \tfrac{1}{2} \lVert V_i - W_i \rVert_2^2 + t\,\Omega(V)
            \;\Longrightarrow\;
            V_i = c_i + (W_i - c_i) \frac{r_g}{n_g}, \quad r = \operatorname{prox}_{t s^2 \omega}(n)

        Args:
            members: N tensors of one shape, dtype and device.
            step: t ≥ 0. Or one t_i ≥ 0 per member: then the distance of member i is weighted by 1/t_i, and a
                member with t_i = 0 stays where it is.
            start: With ``center="start"``, the members' starting values.

        Returns:
            New tensors like ``members``. Groups with r_g = 0 are *exactly* at the center.

        Raises:
            ValueError: If the members do not fit the penalty (see `check`), or different steps have no closed form:
                they have one for pairs and for ``norm="squared"``.
        """
        (new,) = prox_of_each(self, [members], [step], [start])
        return list(new)

    def check(
        self, shapes: Sequence[torch.Size | tuple[int, ...]], step: float | Sequence[float] = 0.0
    ) -> None:
        """Raise if members of these shapes do not fit the penalty, or its proximal step has no closed form.

        Args:
            shapes: The shape of each member.
            step: The proximal step, as in `prox`.

        Raises:
            ValueError: If there are too few members for the center, their shapes differ, the grouping needs more
                dimensions than they have, or the members' steps differ and have no closed form.

        Example:
            >>> Penalty(norm="l1", groups="input", center="zero").check([(64,)])
            Traceback (most recent call last):
                ...
            ValueError: groups="input" needs tensors of at least 2 dimensions, not of shape (64,): exclude ...
        """
        if len(shapes) < CENTERS[self.center].min_members:
            raise ValueError(
                f"center={self.center!r} needs at least {CENTERS[self.center].min_members} members, got {len(shapes)}: "
                'give a pattern for each model, or write center="zero"'
            )
        if any(shape != shapes[0] for shape in shapes[1:]):
            raise ValueError(
                f"members must have one shape, got {', '.join(str(tuple(s)) for s in shapes)}"
            )
        min_ndim = GROUPS[self.groups].min_ndim(len(shapes))
        if len(shapes[0]) < min_ndim:
            raise ValueError(
                f'groups="{self.groups}" needs tensors of at least {min_ndim} dimensions, not of shape '
                f"{tuple(shapes[0])}: exclude them (for instance exclude=['*.bias', '*norm*']) or choose other groups"
            )
        steps = common_step(step, len(shapes), CENTERS[self.center])
        has_closed_form = self.is_smooth or (CENTERS[self.center].coupled and len(shapes) == 2)
        if not (isinstance(steps, float) or has_closed_form):
            raise ValueError(
                f"a {self.norm} penalty with center={self.center!r} has no closed-form proximal step for "
                f"{len(shapes)} members with different step sizes {steps}: give them one learning rate, tie them in "
                'pairs, or use norm="squared"'
            )

    def _owl_weights(self, n: Tensor) -> Tensor | None:
        if self.weights is None:
            return None
        if n.numel() not in self._weights_of:
            given = self.weights(n.numel()) if callable(self.weights) else self.weights
            weights = torch.as_tensor(given, dtype=torch.float64, device="cpu")
            check_owl_weights(weights, n.numel())
            self._weights_of[n.numel()] = weights
        return self._weights_of[n.numel()]


def widened(members: Sequence[Tensor]) -> list[Tensor]:
    """The members in the dtype of computation: half precision is computed in float32."""
    return [w.float() if w.dtype in (torch.bfloat16, torch.float16) else w for w in members]


class _Deviations:
    """The members in the dtype of computation, their centers, and the scaled deviations' groups.

    ``part`` is what is here of members that are divided, ``held`` are groups that count as if they were at the center.
    """

    def __init__(
        self,
        penalty: Penalty,
        members: Sequence[Tensor],
        start: Sequence[Tensor] | None,
        part: Part | None = None,
        held: Tensor | None = None,
    ) -> None:
        center = CENTERS[penalty.center]
        self.members = widened(members)
        self.point, self._deviations = center.split(self.members, start)
        self.scale = center.scale(len(members))
        self._groups, self._held = GROUPS[penalty.groups], held
        self._part = (
            part
            if part is not None and _needs_other_parts(penalty, members[0].ndim, part)
            else None
        )

    def measure(self) -> Tensor:
        """What the groups' norms are made of, of the *unscaled* deviations."""
        return self._groups.measure(self._deviations, self._part, self._held)

    def split(self, measured: Tensor | None = None) -> Split:
        """The norms of the groups of D_i = s·(W_i − c_i), and the *unscaled* deviations to be multiplied."""
        measured = self.measure() if measured is None else measured
        n, here, multiply = self._groups.split(self._deviations, measured, self._part)
        return Split(self.scale * n, here, multiply)


def _needs_other_parts(penalty: Penalty, ndim: int, part: Part) -> bool:
    """Whether members of which a part is here cannot be moved without knowing of the others."""
    # The smooth norm pulls every element by its own deviation.
    return not penalty.is_smooth and (
        NORMS[penalty.norm].weighted or GROUPS[penalty.groups].crosses(ndim, part.dim)
    )


@torch.no_grad()
def measure_each(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    starts: Sequence[Sequence[Tensor] | None],
    held: Sequence[Tensor | None],
    shards: Shards,
) -> list[Tensor | None]:
    """What all parts of the members of several ties have together of what their group norms are made of.

    Of each tie as much is kept as is sent: its deviations are computed again when it is moved.
    """
    sums: list[Tensor | None] = []
    for members, start, at_center, part in zip(ties, starts, held, shards.parts, strict=True):
        penalty.check([w.shape for w in members])
        divided = part is not None and _needs_other_parts(penalty, members[0].ndim, part)
        sums.append(
            _Deviations(penalty, members, start, part, at_center).measure() if divided else None
        )
    return shards.total(sums)


@torch.no_grad()
def gradient_of(
    penalty: Penalty,
    members: Sequence[Tensor],
    start: Sequence[Tensor] | None,
    part: Part | None = None,
    measured: Tensor | None = None,
) -> list[Tensor]:
    """`Penalty.gradient` of members of which a part may be here; then ``measured`` is what `measure_each` made."""
    penalty.check([w.shape for w in members])
    work = _Deviations(penalty, members, start, part)
    n, here, multiply = work.split(measured)
    slope = NORMS[penalty.norm].derivative(n, penalty._owl_weights(n))
    pulls = multiply(work.scale**2 * _per_norm(here(slope), here(n)))
    return [pull.to(w) for pull, w in zip(pulls, members, strict=True)]


def prox_of_each(
    penalty: Penalty,
    ties: Sequence[Sequence[Tensor]],
    steps: Sequence[float | Sequence[float]],
    starts: Sequence[Sequence[Tensor] | None],
    held: Sequence[Tensor | None] | None = None,
    parts: Sequence[Part | None] | None = None,
    measured: Sequence[Tensor | None] | None = None,
    in_place: bool = False,
) -> Iterator[Sequence[Tensor]]:
    """`Penalty.prox` of several ties, whose group norms go through the proximal operator of the norm together.

    Args:
        penalty: The penalty.
        ties: The members of each tie.
        steps: For each tie its step size, or one step size per member.
        starts: With ``center="start"``, for each tie the members' starting values.
        held: For each tie one bool per group, or ``None``: groups that are put to their center whatever the step.
            Groups that the step puts there are added.
        parts: For each tie which part of its members is here, ``None`` if all of it is.
        measured: For each tie what `measure_each` made of it.
        in_place: Whether members may be written to, where that saves time and memory.

    Yields:
        For each tie, new tensors like its members, or the members.
    """
    nothing = [None] * len(ties)
    each = zip(
        ties, steps, starts, held or nothing, parts or nothing, measured or nothing, strict=True
    )
    begun = [_Prox(penalty, *tie) for tie in each]
    shrunk = NORMS[penalty.norm].prox(
        [prox.norms for prox in begun],
        [penalty._owl_weights(prox.norms) for prox in begun],
        [p.step for p in begun],
    )
    for prox, r in zip(begun, shrunk, strict=True):
        yield prox.finish(r, in_place)


class _Prox:
    """The proximal step of one tie, before and after that of its group norms, ``norms`` and ``step``."""

    def __init__(
        self,
        penalty: Penalty,
        members: Sequence[Tensor],
        step: float | Sequence[float],
        start: Sequence[Tensor] | None,
        held: Tensor | None,
        part: Part | None,
        measured: Tensor | None,
    ) -> None:
        penalty.check([w.shape for w in members], step)
        self._penalty, self._members = penalty, members
        self._held = None if held is None else held.view(-1)
        self._work = _Deviations(penalty, members, start, part, held)
        self._steps = common_step(step, len(members), CENTERS[penalty.center])
        self.norms, self.step = self._work.members[0].new_zeros(0), 0.0
        if isinstance(self._steps, float) or not penalty.is_smooth:
            self.norms, self._here, self._multiply = self._work.split(measured)
            self.step = (
                self._steps * self._work.scale**2
                if isinstance(self._steps, float)
                else sum(self._steps)
            )

    def finish(self, r: Tensor, in_place: bool) -> Sequence[Tensor]:
        """The members, given what becomes of the group norms."""
        work, steps = self._work, self._steps
        if isinstance(steps, list) and self._penalty.is_smooth:
            coupled = CENTERS[self._penalty.center].coupled
            result = prox_of_squared(work.members, work.point, steps, coupled)
        else:
            n = self._here(self.norms)
            factor = _per_norm(self._here(r), n)
            if self._held is not None:
                self._held |= (factor == 0.0) & (n > 0.0)
            shape = GROUPS[self._penalty.groups].shape
            if (
                in_place
                and shape is not None
                and self._penalty.center == "zero"
                and len(self._members) == 1
            ):
                (w,) = self._members
                if self.step > 0.0:
                    factor = factor.view(shape(w.shape))
                    if self._penalty.groups == "input":
                        # Written out for a whole row: what repeats within one is multiplied five times slower.
                        factor = factor.expand(1, *w.shape[1:]).contiguous()
                    w.mul_(factor).add_(0.0)  # -0.0 + 0.0 is 0.0, of which files keep nothing
                return self._members
            shrunk = self._multiply(factor)
            if isinstance(steps, float):
                result = [d.add_(c) for c, d in zip(work.point, shrunk, strict=True)]
            else:
                result = prox_of_pair(work.members, 2.0 * shrunk[0], steps)
        return [v.to(w) for v, w in zip(result, self._members, strict=True)]


class _Value(torch.autograd.Function):
    """The penalty's value, whose backward pass is its closed-form gradient."""

    @staticmethod
    def forward(
        ctx: Any, penalty: Penalty, start: Sequence[Tensor] | None, *members: Tensor
    ) -> Tensor:
        penalty.check([w.shape for w in members])
        ctx.penalty, ctx.start = penalty, start
        ctx.save_for_backward(*members)
        n, _, _ = _Deviations(penalty, members, start).split()
        return NORMS[penalty.norm].value(n, penalty._owl_weights(n))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        pulls = ctx.penalty.gradient(ctx.saved_tensors, ctx.start)
        return None, None, *[outer.to(pull) * pull for pull in pulls]


def _per_norm(numerator: Tensor, n: Tensor) -> Tensor:
    """``numerator / n``, and 0 where n is zero or so small that the quotient could overflow."""
    return torch.where(n > torch.finfo(n.dtype).tiny ** 0.5, numerator / n, 0.0)
