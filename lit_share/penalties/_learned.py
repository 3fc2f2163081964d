"""Strengths that are learned in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from lit_share.penalties._numbers import plain_number
from lit_share.text import check_choice
from lit_share.ties import Tie

Of = Literal["tie", "layer", "all"]

# The decay of the running means of cosines and of their squares, and the cosine below which none
# counts: gradients of different batches differ by more.
MEAN, SQUARE, LEAST = 0.9, 0.99, 1e-3


@dataclass(frozen=True)
class Learned:
    r"""Learn the strength of a penalty while training, from validation data.

    Every few optimizer steps one batch of validation data tells whether the penalty's last move
    :math:`\Delta` of the members has lowered the validation loss. With its gradient :math:`g`,

    .. math::
        c = -\frac{\langle g, \Delta \rangle}{\lVert g \rVert \lVert \Delta \rVert}, \qquad
        \log \lambda \leftarrow \log \lambda + \eta \frac{m}{\sqrt v}

    in which m and v are running means of c and c², as in Adam: a strength moves by a factor of
    :math:`e^\eta` while the cosines c are equal, and by less the more they contradict each other.
    Where they grow suddenly, v lags behind m: the factor is at most :math:`e^{2.35 \eta}`.

    For penalties that are gradients, :math:`\Delta = -P\, \nabla\Omega(W)`, in which P are the
    learning rates, and with Adam its factors :math:`1 / (\sqrt{v} + \epsilon)`; the cosine is that
    of :math:`P g` and :math:`-\nabla\Omega(W)`, whose product is the same. For proximal steps,
    :math:`\Delta = \operatorname{prox}(W) - W` is what the last step has moved, so that equal
    groups still tell whether they should come apart. Nothing depends on the scales of loss, penalty
    and learning rate.

    This looks one step ahead. What a penalty is worth only after many steps is not seen.

    The validation data choose the strengths, so they are training data for one number per tie.

    Args:
        start: The strengths before the first update, > 0. ``None``: 0.01 for penalties that are
            gradients, and 0.1 for proximal steps.
        every: The number of optimizer steps between updates, at least 1.
        per: One strength for each ``"tie"``; for each ``"layer"``, whose weights and biases have
            one in common; or for ``"all"``.
        loader: Batches for the `validation_step`: what a LightningModule's `val_dataloader` may
            return. ``None``: those that the Trainer validates with.
        loss: The name under which `validation_step` logs its loss, if it does not return it; or a
            function that returns the loss, given the module and a batch, in place of
            `validation_step`. ``None``: the only logged value that depends on the weights, or the
            one whose name ends in "loss".
        rate: The change η of the logarithm in an update, if all cosines so far are equal.
        least: The smallest strength, > 0 and at most ``start``. ``None``: 1e-6 for gradients, and
            0.01 for proximal steps. These hardly act there, and models that start alike learn
            faster without them at first, so that strengths would fall too far to return.
        most: The largest strength, at least ``start``. For penalties that are gradients, without a
            precision, it is at most 1 / (lr μ) with the largest learning rate lr and the largest
            eigenvalue μ of the penalty's Hessian: there, members meet in one step of SGD, and from
            twice that on, its steps diverge. μ is N for N members that are pulled to their mean or
            along all edges, 2 for a pair; at most 4 along a chain; 1 for members that are pulled to
            zero, their starting values or the first one; see `lit_share.functional.curvature`. A
            parameter that is k members of a tie counts k-fold. For norms that are not smooth, which
            have no Hessian, it is 2.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> learned = Learned(start=0.1, per="layer")
        >>> learned.every
        8

    Source:
        Luketina, Berglund, Greff and Raiko: *Scalable gradient-based tuning of continuous
        regularization hyperparameters*, ICML 2016, which take the product in place of the cosine.
    """

    start: float | None = None
    every: int = 8
    per: Of = "tie"
    loader: Any = None
    loss: str | Callable[[Any, Any], Tensor] | None = None
    rate: float = 0.8
    least: float | None = None
    most: float = 1e3

    def __post_init__(self) -> None:
        check_choice("per", self.per, Of)
        for entry in fields(self):
            value = plain_number(entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
            if not str(entry.type).startswith("float") or value is None:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value <= 0.0:
                raise ValueError(f"Learned({entry.name}={value!r}): write a finite number > 0")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"Learned(every={self.every!r}): write a whole number of at least 1")

    def limits(self, uses_prox: bool) -> tuple[float, float, float]:
        """Return the first, smallest and largest strength of proximal steps, or of gradients.

        Raises:
            ValueError: If the first is not between the others.
        """
        start, least = 0.01, 1e-6
        if uses_prox:
            start, least = 0.1, 0.01
        if self.start is not None:
            start, least = self.start, min(least, self.start)
        if self.least is not None:
            least = self.least
        if not least <= start <= self.most:
            raise ValueError(
                f"Learned(start={start:g}) is not between least={least:g} and most={self.most:g}: "
                "write another start, or move these limits"
            )
        return start, least, self.most


class LearnedStrengths:
    """The learned strengths of a penalty's ties, and their course over the epochs.

    Args:
        settings: How they are learned.
        uses_prox: Whether the penalty takes proximal steps.

    Attributes:
        course: Each strength at the end of every epoch, by the name of its tie or layer.
        steps_at_update: The number of optimizer steps at the last update.
    """

    def __init__(self, settings: Learned, uses_prox: bool) -> None:
        self.settings = settings
        self.start, self.least, self.most = settings.limits(uses_prox)
        self.restore({})

    def of(self, ties: Sequence[Tie]) -> list[float]:
        """Return the strength of each tie."""
        start = math.log(self.start)
        return [math.exp(self._logs.get(self._key(tie), start)) for tie in ties]

    def by_name(self, ties: Sequence[Tie]) -> dict[str, float]:
        """Return the strengths by the names of ties or layers."""
        return {self._key(tie): own for tie, own in zip(ties, self.of(ties), strict=True)}

    @property
    def is_moved(self) -> bool:
        """Whether any strength has been updated."""
        return bool(self._moments)

    def is_due(self, steps: int) -> bool:
        """Whether the next update is due after so many optimizer steps."""
        # A loop that resumes may count from 0 again.
        past = steps - self.steps_at_update
        return past >= self.settings.every or past < 0

    def update(
        self, ties: Sequence[Tie], products: Tensor, most: Sequence[float] | None = None
    ) -> None:
        """Move the strengths.

        Args:
            ties: The ties.
            products: What `TieViews.products` returns of the validation loss and the last move.
            most: The largest strength of each tie, if it is less than that of the settings. The
                least counts for ties with a common strength.
        """
        keys = [self._key(tie) for tie in ties]
        limits: dict[str, float] = {}
        for key, own in zip(keys, most or [math.inf] * len(keys), strict=True):
            limits[key] = min(own, limits.get(key, self.most))
        # Ties with a common strength are one vector, whose products are sums.
        sums: dict[str, list[float]] = {}
        for key, row in zip(keys, products.tolist(), strict=True):
            total = sums.setdefault(key, [0.0] * 3)
            sums[key] = [x + y for x, y in zip(total, row, strict=True)]
        for key, (product, of_gradient, of_move) in sums.items():
            size = math.sqrt(of_gradient) * math.sqrt(of_move)
            # Under fp16, gradients may overflow. Without a move there is nothing to learn from.
            if not (math.isfinite(product) and math.isfinite(size) and size > 0.0):
                continue
            log = self._logs.get(key, math.log(self.start))
            log += self.settings.rate * self._normalised(key, -product / size)
            largest = max(self.least, limits[key])
            self._logs[key] = min(max(log, math.log(self.least)), math.log(largest))

    def _normalised(self, key: str, cosine: float) -> float:
        """Return the running mean of cosines over the root of that of their squares."""
        updates, mean, square = self._moments.get(key, (0, 0.0, 0.0))
        updates += 1
        mean += (1.0 - MEAN) * (cosine - mean)
        square += (1.0 - SQUARE) * (cosine * cosine - square)
        self._moments[key] = updates, mean, square
        # Both begin at 0, which is corrected as in Adam.
        mean /= 1.0 - MEAN**updates
        square /= 1.0 - SQUARE**updates
        return mean / (math.sqrt(square) + LEAST)

    def end_epoch(self, ties: Sequence[Tie]) -> None:
        """Add the present strengths to the course."""
        for key, strength in self.by_name(ties).items():
            self.course.setdefault(key, []).append(strength)

    def correct_epoch(self, ties: Sequence[Tie]) -> None:
        """Replace the last strengths of the course by the present ones."""
        for key, strength in self.by_name(ties).items():
            self.course.setdefault(key, [strength])[-1] = strength

    def state(self) -> dict[str, Any]:
        """Return numbers by name, for a checkpoint."""
        return {
            "logs": dict(self._logs),
            "moments": dict(self._moments),
            "course": {key: list(own) for key, own in self.course.items()},
            "steps_at_update": self.steps_at_update,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned; the start of training if it is empty."""
        self._logs: dict[str, float] = dict(state.get("logs", {}))
        self._moments: dict[str, tuple[int, float, float]] = {
            key: tuple(own) for key, own in state.get("moments", {}).items()
        }
        self.course: dict[str, list[float]] = {
            key: list(own) for key, own in state.get("course", {}).items()
        }
        self.steps_at_update: int = state.get("steps_at_update", 0)

    def _key(self, tie: Tie) -> str:
        if self.settings.per == "all":
            return "all"
        if self.settings.per == "layer":
            return tie.layer
        return tie.name
