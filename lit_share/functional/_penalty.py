"""The penalty: norm ∘ groups ∘ (weights − center)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lit_share.functional import _along_edges, _inside, _plain
from lit_share.functional._centers import CENTERS, Center, CenterName
from lit_share.functional._edges import (
    Edges,
    EdgesKind,
    Graph,
    Star,
    adaptive_weights,
    checked_edges,
    kind_of,
)
from lit_share.functional._groups import GROUPS, Groups, GroupsName
from lit_share.functional._norms import NORMS, Norm, NormName
from lit_share.functional._owl import check_owl_weights
from lit_share.functional._owl_weights import OwlWeights
from lit_share.functional._steps import check_steps, common_step
from lit_share.functional._tie_tensors import TieTensors
from lit_share.text import described

# `OwlWeights` is a callable, too, but LightningCLI needs its name to build it from a config.
Weights = Tensor | Sequence[float] | OwlWeights | Callable[[int], Tensor]


@dataclass(frozen=True, eq=False)
class Penalty:
    r"""A penalty on the *members* of a tie: N ≥ 1 tensors that should be similar, or small.

    .. math::
        \Omega(W_1, \dots, W_N) = \omega(n), \qquad
        n_g = \lVert D_g \rVert_2, \qquad
        D_i = s\,(W_i - c_i)

    Members are pulled towards the *center* c. The *groups* g partition the elements of the
    deviations D, and a group has the same elements of all members. The *norm* :math:`\omega`
    decides which groups become exactly zero.

    Args:
        norm: ``"squared"`` (½Σn², makes nothing exact), ``"l1"`` (Σn, makes groups exactly equal
            to the center) or ``"owl"`` (Σ w_k n_(k) with n in descending order, which also makes
            norms of groups equal).
        groups: ``"element"``, ``"output"`` (dim 0: an output unit or filter), ``"input"`` (dim 1:
            an input unit or channel), ``"tensor"`` or ``"spectrum"`` (singular values).
        center: ``"zero"``, ``"mean"`` (of the members), ``"first"`` (the first member, held
            constant), ``"start"`` (the member's value when training began) or ``"graph"`` (the
            other members, along edges).
        weights: For ``"owl"`` only: a tensor with one weight per group, or a function that returns
            it for a number of groups, such as ``OwlWeights(lambda1=1.0, lambda2=0.1)``.
        edges: For ``center="graph"`` only: the pairs e = (i, j) of members that are compared, by
            their deviations :math:`D_e = a_e (W_i - W_j)`. Each edge has groups of its own, so that
            members may form clusters. ``"all"`` pairs (the default), ``"chain"`` for members that
            follow each other, ``"adaptive"`` for all pairs with the weights
            :math:`a_e = (d_{\min} / d_e)^2` from the distances of the members of a tie, or a list
            of ``(i, j)`` and ``(i, j, weight)``, with members numbered from 0. With ``"star"``, for
            the l1 norm, members have a spoke each to a free center, so that single members can
            leave it: :math:`\min_c \sum_i \lVert W_i - c \rVert` for each group.
        scaled: Whether s, and the weights of edges, include :math:`\sqrt p` for groups of p
            elements in ``"l1"`` and ``"owl"``, so that one strength means the same for a bias, a
            unit and a large layer. Singular values and squared norms have no such factor.
        needs_precision: Whether members must come with the precision of their elements, weights
            F ≥ 0 as in :math:`\tfrac{s^2}{2} \sum_i F_i (W_i - c_i)^2`, so that it is an error to
            forget them. Without it, any squared penalty of elements takes them if they are given.
        needs_inside: Whether the numbers of a tensor must be compared with each other, by a pattern
            that ends in ``[...]``, so that it is an error to give it several members.

    Raises:
        TypeError: If ``scaled`` is not a bool.
        ValueError: If a name or an edge is unknown, or ``weights``, ``edges`` or
            ``needs_precision`` are missing or not supported by the norm, groups or center.

    Example:
        Half the squared distance of two models' weights, and its gradient:

        >>> import torch
        >>> soft_tie = Penalty(norm="squared", groups="element", center="mean")
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
        >>> soft_tie.value([a, b])
        tensor(2.0000)
        >>> soft_tie.gradient([a, b])
        [tensor([ 0., -2.]), tensor([0., 2.])]

        The distance of each element, not squared, makes members exactly equal:

        >>> exact_tie = Penalty(norm="l1", groups="element", center="mean")
        >>> exact_tie.prox([a, b], step=1.5)
        [tensor([1., 3.]), tensor([1., 3.])]

        With a precision, members meet at their weighted mean; of a pair, the pull is the harmonic
        mean of both weights times the difference:

        >>> precision = [torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])]
        >>> soft_tie.gradient([a, b], precision=precision)
        [tensor([ 0., -3.]), tensor([0., 3.])]

        On a graph, two of three members become equal:

        >>> cluster_tie = Penalty(norm="l1", groups="tensor", center="graph", edges="all")
        >>> cluster_tie.prox([torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([9.0])], 0.5)
        [tensor([2.]), tensor([2.]), tensor([8.])]

        Inside a tensor, numbers become equal; each pair has the weight 1 / (n - 1):

        >>> value_tie = Penalty(norm="l1", groups="element", center="graph", edges="all")
        >>> value_tie.prox([torch.tensor([1.0, 2.0, 9.0])], step=1.0, inside=True)
        [tensor([2., 2., 8.])]

    Source:
        Parikh, Boyd: *Proximal Algorithms*, Foundations and Trends in Optimization 2014, Sections 2
        and 6; Bach, Jenatton, Mairal, Obozinski: *Optimization with Sparsity-Inducing Penalties*,
        2012, Section 3. `RECIPES` has the sources of the usual penalties.
    """

    norm: NormName
    groups: GroupsName
    center: CenterName
    weights: Weights | None = None
    edges: Edges | None = None
    scaled: bool = True
    needs_precision: bool = field(default=False, repr=False)
    needs_inside: bool = field(default=False, repr=False)
    _weights_of: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        tables: dict[str, tuple[str, Mapping[str, object]]] = {
            "norm": (self.norm, NORMS),
            "groups": (self.groups, GROUPS),
            "center": (self.center, CENTERS),
        }
        for key, (name, table) in tables.items():
            if name not in table:
                known = ", ".join(map(repr, table))
                raise ValueError(f"unknown {key} {name!r}: write one of {known}")
        if self.omega.weighted and self.weights is None:
            raise ValueError(
                f"norm={self.norm!r} needs weights=: a tensor with one weight per group, or a "
                "function of the number of groups such as "
                "lit_share.OwlWeights(lambda1=1.0, lambda2=0.1)"
            )
        if not self.omega.weighted and self.weights is not None:
            raise ValueError(
                f"weights= belong to norm={either(NORMS, lambda norm: norm.weighted)}; "
                f"norm={self.norm!r} has none"
            )
        if isinstance(self.weights, type):
            raise TypeError(
                f"weights= must be a tensor or a function, got {described(self.weights)}: write "
                "lit_share.OwlWeights(lambda1=1.0, lambda2=0.1)"
            )
        if not isinstance(self.scaled, bool):
            raise TypeError(f"scaled must be True or False, got {self.scaled!r}")
        if self.needs_precision:
            self._check_takes_precision()
        self._check_edges()

    def _check_edges(self) -> None:
        if not self.centering.has_edges:
            if self.edges is not None:
                having = either(CENTERS, lambda center: center.has_edges)
                raise ValueError(
                    f"edges= belong to center={having}; center={self.center!r} has none"
                )
            return
        if self.omega.weighted:
            norms = either(NORMS, lambda norm: not norm.weighted)
            raise ValueError(
                f"center={self.center!r} has no norm={self.norm!r}, which would sort the groups of "
                f"all edges: write norm={norms}"
            )
        if self.grouping.kept(2) is None:
            raise ValueError(
                f"center={self.center!r} needs groups of elements, and groups={self.groups!r} are "
                "not: write groups=" + either(GROUPS, lambda grouping: grouping.kept(2) is not None)
            )
        edges = self.edges
        if edges is None:
            edges = "all"
        # Configs give lists, and an attribute of a frozen dataclass has to be set like this.
        object.__setattr__(self, "edges", checked_edges(edges))
        if self.edging.has_free_center and not self.omega.soft_threshold:
            norms = either(NORMS, lambda norm: norm.soft_threshold)
            raise ValueError(
                f"edges={self.edges!r} is for norm={norms}, not for norm={self.norm!r}: write "
                f"center={either(CENTERS, lambda center: center.is_mean)}, which is the point of "
                "the least squared distances"
            )

    @property
    def omega(self) -> Norm:
        """The entry of `NORMS`."""
        return NORMS[self.norm]

    @property
    def grouping(self) -> Groups:
        """The entry of `GROUPS`."""
        return GROUPS[self.groups]

    @property
    def centering(self) -> Center:
        """The entry of `CENTERS`."""
        return CENTERS[self.center]

    @property
    def edging(self) -> EdgesKind:
        """The entry of `EDGES`, or the kind of a list; of centers with edges only."""
        assert self.edges is not None
        return kind_of(self.edges)

    @property
    def is_adaptive(self) -> bool:
        """Whether the weights of edges depend on the members' distances."""
        return self.centering.has_edges and self.edging.is_adaptive

    def has_free_center(self, members: int) -> bool:
        """Whether members have spokes to a free center; those of a pair are one edge."""
        return self.centering.has_edges and self.edging.has_free_center and members > 2

    def graph_of(self, tie: TieTensors) -> Graph | Star:
        """Return the graph of a tie; adaptive weights are computed unless the tie has them."""
        if self.has_free_center(len(tie.members)):
            return Star((self.factor_of_groups(tie),) * len(tie.members))
        pairs = self.edging.pairs(len(tie.members))
        given = tie.edge_weights
        if self.is_adaptive and given is None:
            given = adaptive_weights(_along_edges.squared_distances(self, tie))
        weights: Sequence[float] = self.edging.weights or (1.0,) * len(pairs)
        if given is not None:
            weights = given.tolist()
        factor = self.factor_of_groups(tie)
        return Graph(pairs, tuple(factor * weight for weight in weights))

    def scale_of(self, tie: TieTensors) -> float:
        """Return the scale of a tie's deviations; with edges, their weights include it."""
        if self.centering.has_edges:
            return 1.0
        return self.centering.scale(len(tie.members)) * self.factor_of_groups(tie)

    def factor_of_groups(self, tie: TieTensors) -> float:
        """Return the square root of the elements of a group, if the penalty is scaled by that."""
        if not (self.scaled and self.omega.homogeneous):
            return 1.0
        return math.sqrt(self.grouping.elements(tie.full_shape))

    def center_of(self, tie: TieTensors) -> Center:
        """Return the center of a tie, which may have edges."""
        if not self.centering.has_edges:
            return self.centering
        graph = self.graph_of(tie)
        # The deviations from a free center are not a linear map: see `_free_center`.
        assert isinstance(graph, Graph)
        return self.centering.on(graph)

    @property
    def is_smooth(self) -> bool:
        """Whether the penalty is differentiable everywhere, so that it needs no proximal step."""
        return self.omega.smooth

    @property
    def compares_members(self) -> bool:
        """Whether the pull on a member depends on the other members."""
        return self.centering.compares_members

    @property
    def makes_zeros(self) -> bool:
        """Whether the proximal step makes groups of elements exactly zero."""
        return self._makes_exact and self.centering.is_zero

    @property
    def makes_equal(self) -> bool:
        """Whether the proximal step makes groups of elements exactly equal in all members."""
        # Along edges, some members become equal, and others stay apart.
        return self._makes_exact and self.compares_members and not self.centering.has_edges

    @property
    def _makes_exact(self) -> bool:
        # A zero singular value makes no element zero.
        return self.omega.makes_exact and self.grouping.kept(2) is not None

    def needs_other_shards(self, ndim: int, dim: int) -> bool:
        """Whether the update of a shard needs statistics of the other shards.

        Args:
            ndim: Number of dimensions of each member.
            dim: The dimension along which members are sharded.

        Example:
            >>> group_lasso = Penalty(norm="l1", groups="input", center="zero")
            >>> [group_lasso.needs_other_shards(2, dim) for dim in (0, 1)]
            [True, False]
        """
        # With a quadratic norm, the pull on an element depends on its own deviation only.
        spans = self.omega.weighted or self.grouping.spans_shards(ndim, dim)
        return not self.omega.quadratic and spans

    def value(
        self,
        members: Sequence[Tensor],
        start: Sequence[Tensor] | None = None,
        precision: Sequence[Tensor] | None = None,
        *,
        inside: bool = False,
    ) -> Tensor:
        r"""Compute the penalty :math:`\Omega`, which may be added to a loss.

        Its backward pass is `gradient`, which is finite, and zero where deviations are zero. With
        ``edges="star"`` it has no second-order gradients.

        Args:
            members: N tensors of one shape, dtype and device.
            start: For ``center="start"``, the members' starting values.
            precision: For squared penalties of elements, a weight F ≥ 0 of each element: tensors of
                the members' shape, which get no gradient.
            inside: Whether the n numbers of a single member are compared with each other, each pair
                with the weight 1 / (n − 1).

        Returns:
            Scalar tensor in the members' dtype, or in float32 if that is wider.

        Raises:
            ValueError: If the members do not fit the penalty; see `check`.
        """
        shapes = [w.shape for w in members]
        self.check(shapes, start=start, precision=precision, inside=inside)
        tie = TieTensors(members, start=start, precision=precision, inside=inside)
        value: Tensor = _Value.apply(self, tie, *members)
        return value

    @torch.no_grad()
    def gradient(
        self,
        members: Sequence[Tensor],
        start: Sequence[Tensor] | None = None,
        precision: Sequence[Tensor] | None = None,
        *,
        inside: bool = False,
    ) -> list[Tensor]:
        r"""Compute the gradient of `value`, in closed form.

        .. math::
            \nabla_{W_i} \Omega = s \, \frac{\omega'(n_g)}{n_g} \, D_i \quad \text{on group } g,
            \qquad 0 \text{ where } n_g = 0

        On a graph it is the sum of those of a member's edges. With ``edges="star"`` it is the unit
        vector from the center to the member; members at the center share what the sum of the others
        is short of zero.

        Args:
            members: N tensors of one shape, dtype and device.
            start: For ``center="start"``, the members' starting values.
            precision: For squared penalties of elements, a weight F ≥ 0 of each element: tensors of
                the members' shape, which get no gradient.
            inside: Whether the numbers of a single member are compared with each other.

        Returns:
            New tensors like ``members``: a subgradient where :math:`\omega` has a kink.

        Raises:
            ValueError: If the members do not fit the penalty; see `check`.
        """
        shapes = [w.shape for w in members]
        self.check(shapes, start=start, precision=precision, inside=inside)
        tie = TieTensors(members, start=start, precision=precision, inside=inside)
        gradients = _plain.gradient(self, tie)
        return [g.to(w.dtype) for g, w in zip(gradients, members, strict=True)]

    @torch.no_grad()
    def prox(
        self,
        members: Sequence[Tensor],
        step: float | Sequence[float],
        start: Sequence[Tensor] | None = None,
        precision: Sequence[Tensor] | None = None,
        *,
        inside: bool = False,
    ) -> list[Tensor]:
        r"""Compute the proximal operator of ``step`` times the penalty, in closed form.

        .. math::
            \operatorname{prox}(W) = \arg\min_V
            \sum_i \tfrac{1}{2} \lVert V_i - W_i \rVert_2^2 + t\,\Omega(V)
            \;\Longrightarrow\;
            V_i = c_i + (W_i - c_i) \frac{r_g}{n_g}, \quad r = \operatorname{prox}_{t s^2 \omega}(n)

        On a graph, linear combinations of the members are computed: by a linear system for a
        squared norm, by sorting for elements of equal steps and edges, and otherwise by block
        coordinate ascent, until the distance from the minimiser is below 1e-7 of the distance that
        the members move. Members nearer to each other than that, or than 1e-7 of their distance
        from the first member, are *exactly* equal. With ``edges="star"`` the members' Huber
        location is computed: members nearer to it than their step become equal, and the others move
        towards it by their step.

        Args:
            members: N tensors of one shape, dtype and device.
            step: t ≥ 0, or one t_i ≥ 0 per member, which weights the distance of member i by
                1/t_i; a member with t_i = 0 does not move.
            start: For ``center="start"``, the members' starting values.
            precision: For squared penalties of elements, a weight F ≥ 0 of each element: tensors of
                the members' shape, which get no gradient.
            inside: Whether the numbers of a single member are compared with each other.

        Returns:
            New tensors like ``members``. Groups with r_g = 0 are *exactly* at the center.

        Raises:
            ValueError: If the members do not fit the penalty (see `check`), or steps differ and
                have no closed form, which exists for pairs at their mean and for
                ``norm="squared"``.
        """
        shapes = [w.shape for w in members]
        steps = steps_of_members(step, len(members))
        self.check(shapes, steps, start, precision, inside=inside)
        tie = TieTensors(members, steps=steps, start=start, precision=precision, inside=inside)
        return next(_plain.prox(self, [tie]))

    def check(
        self,
        shapes: Sequence[Sequence[int]],
        step: float | Sequence[float] | None = None,
        start: Sequence[Tensor] | None = None,
        precision: Sequence[Tensor] | None = None,
        *,
        inside: bool = False,
    ) -> None:
        """Raise if members do not fit the penalty, or its proximal step has no closed form.

        Args:
            shapes: The shape of each member.
            step: The proximal step, as in `prox`; not checked if ``None``.
            start: The starting values; not checked if ``None``.
            precision: The weights of elements; not checked if ``None``.
            inside: Whether the numbers of a single member are compared with each other.

        Raises:
            ValueError: If there are too few members for the center, their shapes differ, the
                grouping needs more dimensions, starting values have other shapes, the proximal step
                has no closed form, or a precision is not supported or has other shapes.

        Example:
            >>> Penalty(norm="l1", groups="input", center="zero").check([(64,)])
            Traceback (most recent call last):
                ...
            ValueError: groups="input" needs tensors of at least 2 dimensions, not of shape ...
        """
        if inside:
            _inside.check(self, shapes, has_precision=precision is not None)
            if step is not None:
                self.check_prox(steps_of_members(step, 1), 1)
            return
        if self.needs_inside:
            raise ValueError(
                "this penalty compares the numbers of a tensor with each other, not members: end "
                "the pattern in [...], or write exact_tie, which makes members equal"
            )
        least = self.centering.min_members
        if len(shapes) < least:
            hint = ""
            if self.centering.has_edges:
                hint = "end the pattern in [...] to compare the numbers of a tensor, "
            raise ValueError(
                f"center={self.center!r} needs at least {least} members, got {len(shapes)}: give a "
                f"pattern for each model, {hint}or write "
                f"center={either(CENTERS, lambda c: c.is_zero)}"
            )
        if any(tuple(shape) != tuple(shapes[0]) for shape in shapes[1:]):
            listed = ", ".join(str(tuple(shape)) for shape in shapes)
            raise ValueError(f"members must have one shape, got {listed}")
        if self.centering.has_edges:
            self.edging.pairs(len(shapes))
        min_ndim = self.grouping.min_ndim(len(shapes))
        if len(shapes[0]) < min_ndim:
            raise ValueError(
                f'groups="{self.groups}" needs tensors of at least {min_ndim} dimensions, not of '
                f"shape {tuple(shapes[0])}: leave the others out, by "
                f"Ties(..., min_ndim={min_ndim}), or choose other groups"
            )
        if start is not None:
            self.check_start(start, shapes)
        if precision is not None:
            self.check_precision(precision, shapes)
        if step is not None:
            self.check_prox(steps_of_members(step, len(shapes)), len(shapes))

    def check_complex(self, *, inside: bool = False) -> None:
        """Raise `ValueError` if the penalty is for real members only."""
        if self.grouping.kept(2) is None:
            groups = either(GROUPS, lambda grouping: grouping.kept(2) is not None)
            raise ValueError(
                f'groups="{self.groups}" are for real members, not for complex ones: write '
                f"groups={groups}"
            )
        if self.centering.has_edges or inside:
            raise ValueError(
                "complex members are not compared along edges, nor inside a tensor: write "
                f"center={either(CENTERS, lambda center: not center.has_edges)}, without [...]"
            )

    def check_start(
        self, start: Sequence[Tensor] | None, shapes: Sequence[Sequence[int]] = ()
    ) -> None:
        """Raise `ValueError` if starting values are needed, but missing or of other shapes."""
        if not self.centering.needs_start:
            return
        expected = [tuple(shape) for shape in shapes]
        if start is None or (expected and [tuple(s.shape) for s in start] != expected):
            raise ValueError(
                f'center="{self.center}" pulls every member to its own starting value: pass '
                "start=, one tensor per member, of the members' shape"
            )

    def check_precision(
        self, precision: Sequence[Tensor] | None, shapes: Sequence[Sequence[int]] = ()
    ) -> None:
        """Raise `ValueError` if a precision is missing, not supported, or of other shapes."""
        if precision is None:
            if self.needs_precision:
                raise ValueError(
                    "this penalty weights every element by its precision: pass precision=, such as "
                    "what lit_share.fisher(module, batches) returns"
                )
            return
        self._check_takes_precision()
        expected = [tuple(shape) for shape in shapes]
        given = [tuple(f.shape) for f in precision]
        if expected and given != expected:
            raise ValueError(
                f"precision= needs one tensor per member, of shape {expected[0]}, got "
                f"{', '.join(map(str, given)) or 'none'}"
            )

    def _check_takes_precision(self) -> None:
        """Raise `ValueError`, naming the key, unless elements may have a precision."""
        # Groups of vectors are not compared, as groups of elements have no matrices either.
        known: dict[str, tuple[bool, str]] = {
            "norm": (self.omega.quadratic, either(NORMS, lambda norm: norm.quadratic)),
            "groups": (
                self.grouping.is_elementwise(2),
                either(GROUPS, lambda groups: groups.is_elementwise(2)),
            ),
            "center": (
                self.centering.is_mean or self.centering.is_separate,
                either(CENTERS, lambda center: center.is_mean or center.is_separate),
            ),
        }
        for key, (fits, names) in known.items():
            if not fits:
                raise ValueError(
                    f"a precision of elements is for {key}={names}, not for "
                    f'{key}="{getattr(self, key)}"'
                )

    def owl_weights(self, n: Tensor) -> Tensor | None:
        """Return OWL weights for a vector of group norms, in float64 on the host.

        Returns:
            Tensor of shape ``(groups,)``; ``None`` if the norm has no weights.

        Raises:
            ValueError: If their number is not the number of groups, or they are not OWL weights.
        """
        given, groups = self.weights, n.numel()
        if given is None:
            return None
        # Weights are computed and checked once for each number of groups, not at every step.
        if groups not in self._weights_of:
            if callable(given):
                given = given(groups)
            weights = torch.as_tensor(given, dtype=torch.float64, device="cpu")
            check_owl_weights(weights, groups)
            self._weights_of[groups] = weights
        return self._weights_of[groups]

    def check_prox(self, steps: Sequence[float], members: int) -> None:
        """Raise `ValueError` if the proximal step has no closed form for these steps.

        Args:
            steps: The step of each member.
            members: The number of members.
        """
        check_steps(steps, members)
        if self.omega.prox is None:
            raise ValueError(
                f'norm="{self.norm}" has no proximal step in closed form: write apply="gradient"'
            )
        center = self.centering
        if center.has_edges:
            # The dual problem has thresholds for each step.
            if not (self.omega.quadratic or self.omega.soft_threshold):
                raise ValueError(
                    f'norm="{self.norm}" has no proximal step with center={self.center!r}: write '
                    'apply="gradient"'
                )
            return
        # `_steps` has the closed forms for different steps.
        if center.is_mean:
            differ = self.omega.quadratic or members == 2
        else:
            differ = self.omega.quadratic and center.is_separate
        if common_step(steps, center) is None and not differ:
            raise ValueError(
                f"a {self.norm} penalty with center={self.center!r} has no closed-form proximal "
                f"step for {members} members with different step sizes {list(steps)}: give them "
                "one learning rate, tie them in pairs, or use norm="
                + either(NORMS, lambda norm: norm.quadratic)
            )


class _Value(torch.autograd.Function):
    # Autograd returns NaN for the gradient of a norm at 0, where the closed form returns 0.

    @staticmethod
    def forward(
        ctx: Any,
        penalty: Penalty,
        tie: TieTensors,
        *members: Tensor,
    ) -> Tensor:
        ctx.penalty, ctx.tie = penalty, tie
        ctx.save_for_backward(*members)
        return _plain.value(penalty, replace(tie, members=members))

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        # These operations are differentiable, so that there are second-order gradients.
        gradients = _plain.gradient(ctx.penalty, replace(ctx.tie, members=ctx.saved_tensors))
        own = zip(gradients, ctx.saved_tensors, strict=True)
        return None, None, *[outer.to(w) * g.to(w.dtype) for g, w in own]


def steps_of_members(step: float | Sequence[float], members: int) -> list[float]:
    """Return a step for each member, given one for all or one for each."""
    if isinstance(step, (int, float)):
        return [float(step)] * members
    return [float(t) for t in step]


def either(table: Mapping[str, Any], fits: Callable[[Any], bool]) -> str:
    """Return the names of the rows that fit, as ``"a" or "b"`` for error messages."""
    return " or ".join(f'"{name}"' for name, row in table.items() if fits(row))
