"""Strengths that one training walks upward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lit_share.penalties._numbers import plain_number
from lit_share.text import check_choice

Choose = Literal["one_standard_error", "best"]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Path:
    r"""Walk the strengths of a penalty upward in one training, and choose among them.

    Training begins without the penalty, at knot 0, and continues from the weights of each knot
    with the strength of the next one,

    .. math::
        \lambda_0 = 0, \qquad
        \lambda_k = \text{low} \left(\frac{\text{high}}{\text{low}}\right)^{(k-1)/(\text{steps}-1)},
        \quad k = 1, \dots, \text{steps}

    At the end of each knot, `Regularize` saves a checkpoint and scores the weights on all batches
    of validation data. Of batches b with :math:`n_b` of N examples and losses :math:`\ell_b`, the
    score m and its standard error S are

    .. math::
        m = \sum_b \frac{n_b}{N} \ell_b, \qquad
        S^2 = \frac{B}{B - 1} \sum_b \left(\frac{n_b}{N}\right)^2 (\ell_b - m)^2

    Fewer than 10 batches of a loader are split into pieces, which are the B batches then. Scores of
    several loaders add up, and so do their squared errors. At the end of training,
    ``"one_standard_error"`` chooses the largest strength whose score is within one S of the best
    score, S being that of the best: the most that can be shared at no loss that these data could
    show. The fewer the examples, the larger is S, and the more is shared.

    Later knots have trained for longer than earlier ones, so ``first`` should be long enough for
    the models without a penalty: otherwise, later knots are better for that reason alone.

    Args:
        low: The smallest strength after 0, > 0.
        high: The largest strength, at least ``low``.
        steps: The number of strengths from ``low`` to ``high``, at least 1; they are all ``low`` if
            that is ``high``.
        epochs: The number of epochs of each knot, at least 1.
        first: The number of epochs of knot 0, which starts from untrained weights, at least 1.
            ``None``: ``epochs``.
        choose: ``"one_standard_error"``, or ``"best"`` for the knot with the best score, the first
            among equals.
        monitor: The name of a logged validation metric to use as score. ``None``: the validation
            loss. If `validation_step` logs it as a number or a torchmetrics ``Metric``, it is
            measured of each batch, as losses are, and m is the mean over examples, as of an
            accuracy. A metric that is logged at the end of validation has no standard error, so its
            best knot is chosen.
        mode: Whether a small (``"min"``) or a large (``"max"``) ``monitor`` is better.
        loader: Batches for the `validation_step`: what a LightningModule's `val_dataloader` may
            return. ``None``: those that the Trainer validates with.
        loss: The name under which `validation_step` logs its loss, if it does not return it; or a
            function that returns the loss, given the module and a batch. ``None``: the only logged
            value that depends on the weights, or the one whose name ends in "loss". No loss needs a
            gradient; of losses without, as under `torch.no_grad`, that name is necessary.
        dirpath: The folder for checkpoints. ``None``: ``path``, in the folder of the Trainer's
            ``ModelCheckpoint`` or else of its logger, or ``path-v1`` if that has the knots of an
            earlier training. In a folder that is given, these are overwritten.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> path = Path(low=0.01, high=1.0, steps=3, epochs=5, first=20)
        >>> [round(strength, 6) for strength in path.strengths]
        [0.0, 0.01, 0.1, 1.0]
        >>> path.max_epochs, path.at(epoch=19), path.at(epoch=20)
        (35, 0.0, 0.01)
        >>> path.choice(scores=[0.50, 0.40, 0.42, 0.60], errors=[0.03] * 4)
        2

    Source:
        Friedman, Hastie and Tibshirani: *Regularization paths for generalized linear models via
        coordinate descent*, Journal of Statistical Software 2010, for warm starts; Breiman,
        Friedman, Olshen and Stone: *Classification and regression trees*, 1984, section 3.4.3, for
        the rule of one standard error; Lemhadri, Ruan, Abraham and Tibshirani: *LassoNet*, JMLR
        2021, for paths of networks from the unpenalised one.
    """

    low: float = 0.001
    high: float = 1.0
    steps: int = 6
    epochs: int = 5
    first: int | None = None
    choose: Choose = "one_standard_error"
    monitor: str | None = None
    mode: Mode = "min"
    loader: Any = None
    loss: str | Callable[[Any, Any], Tensor] | None = None
    dirpath: str | None = None

    def __post_init__(self) -> None:
        check_choice("choose", self.choose, Choose)
        check_choice("mode", self.mode, Mode)
        for key in ("low", "high", "steps", "epochs", "first"):
            object.__setattr__(self, key, plain_number(key, getattr(self, key)))
        for key in ("low", "high"):
            value = getattr(self, key)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value <= 0.0:
                raise ValueError(
                    f"Path({key}={value!r}): write a finite number > 0; a strength of 0 is always "
                    "the first"
                )
        if self.low > self.high:
            raise ValueError(
                f"Path(low={self.low}, high={self.high}): write a high of at least low"
            )
        whole = {"steps": self.steps, "epochs": self.epochs, "first": self._epochs_of_first}
        for key, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Path({key}={value!r}): write a whole number of at least 1")
        if self.mode == "max" and self.monitor is None:
            raise ValueError(
                'Path(mode="max") would choose the largest validation loss: name a metric by '
                "monitor=, or leave mode out"
            )
        if self.monitor is not None and self.loss is not None:
            raise ValueError(
                f"Path(monitor={self.monitor!r}, loss={self.loss!r}): one of them is the score, so "
                "leave the other out"
            )

    @property
    def strengths(self) -> list[float]:
        """The strength of each knot; the first is 0."""
        # A single step would have the exponent 0/0 in the formula.
        rising = [self.low]
        for k in range(1, self.steps):
            rising.append(self.low * (self.high / self.low) ** (k / (self.steps - 1)))
        # Powers are rounded, and the last strength is one that the user wrote.
        if self.steps > 1:
            rising[-1] = self.high
        return [0.0, *map(float, rising)]

    @property
    def max_epochs(self) -> int:
        """The number of epochs of all knots."""
        return self._epochs_of_first + self.steps * self.epochs

    @property
    def _epochs_of_first(self) -> int:
        if self.first is None:
            return self.epochs
        return self.first

    def knot(self, epoch: int) -> int:
        """Return the index of the knot to which an epoch belongs; the last after the path's end."""
        # Values are also asked for after the last epoch, as of a penalty when training has ended.
        after = epoch - self._epochs_of_first
        if after < 0:
            return 0
        return min(1 + after // self.epochs, self.steps)

    def at(self, epoch: int) -> float:
        """Return the strength in an epoch, counted from 0."""
        return self.strengths[self.knot(epoch)]

    def ends_with(self, epoch: int) -> bool:
        """Whether an epoch is the last one of its knot."""
        return epoch < self.max_epochs and (
            epoch + 1 == self.max_epochs or self.knot(epoch + 1) != self.knot(epoch)
        )

    def choice(self, scores: Sequence[float], errors: Sequence[float | None]) -> int:
        """Return the index of the chosen knot.

        Args:
            scores: The score of each knot, in the order of their strengths; NaN and infinite scores
                are left out.
            errors: The standard errors of the scores; ``None`` where unknown.

        Raises:
            ValueError: If no score is finite.
        """
        sign = -1.0 if self.mode == "max" else 1.0
        # A strength that made training diverge must not be the best by a comparison with NaN.
        losses = {k: sign * score for k, score in enumerate(scores) if math.isfinite(score)}
        if not losses:
            raise ValueError(f"no score of the path is finite: {list(scores)}")
        best = min(losses, key=losses.__getitem__)
        error = errors[best]
        if self.choose == "best" or error is None:
            return best
        # Of errors, the best knot's own counts: those of others would let worse knots in.
        return max(k for k, loss in losses.items() if loss <= losses[best] + error)
