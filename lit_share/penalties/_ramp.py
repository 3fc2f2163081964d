"""Schedules of a penalty's strength."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from lit_share.penalties._numbers import plain_number

Shape = Literal["linear", "cosine"]
Unit = Literal["steps", "epochs"]

# A schedule returns the factor of the strength, given the numbers of finished steps and epochs.
Schedule = Callable[[int, int], float]


class Ramp:
    r"""A factor that changes from ``start`` to ``end``, and stays there.

    .. math::
        f(t) = \text{start} + (\text{end} - \text{start})\, u, \qquad
        u = \operatorname{clip}\left(\frac{t - \text{begin}}{\text{duration}}, 0, 1\right),
        \quad \text{replaced by } \frac{1 - \cos \pi u}{2} \text{ for cosine}

    ``Ramp(duration=1000)`` is a linear warm-up. A ramp has no state, so resumed runs continue it.

    With ``stop``, the factor is zero from then on: a penalty finds what is equal, `lit_share.Share`
    with ``where="equal"`` stores it once at that epoch, and training ends without the bias of the
    penalty.

    Args:
        duration: Length of the ramp, in ``unit``, at least 1.
        start: Factor of the strength before the ramp, at least 0.
        end: Factor of the strength after the ramp, at least 0.
        begin: Time t at which the ramp begins, in ``unit``, at least 0.
        shape: ``"linear"``, or ``"cosine"`` for a smooth beginning and end.
        unit: Optimizer ``"steps"`` or ``"epochs"``.
        stop: Time t from which the factor is 0, in ``unit``, more than ``begin``; ``None``: never.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> ramp = Ramp(duration=10, unit="epochs")
        >>> [ramp(step=0, epoch=epoch) for epoch in (0, 5, 10, 20)]
        [0.0, 0.5, 1.0, 1.0]

    Source:
        Meinshausen: *Relaxed Lasso*, Computational Statistics and Data Analysis 2007, for ``stop``:
        penalties choose, and what was chosen is trained without them.
    """

    # Of ramps that were pickled before there was one.
    stop: float | None = None

    def __init__(
        self,
        duration: int,
        start: float = 0.0,
        end: float = 1.0,
        begin: int = 0,
        shape: Shape = "linear",
        unit: Unit = "steps",
        stop: int | None = None,
    ) -> None:
        numbers = (duration, start, end, begin, stop)
        duration, start, end, begin, stop = (plain_number("a Ramp", each) for each in numbers)
        if not (_is_finite(duration) and _is_finite(begin)) or duration < 1 or begin < 0:
            raise ValueError(
                f"a Ramp needs duration >= 1 and begin >= 0, got duration={duration!r}, "
                f"begin={begin!r}"
            )
        if not (_is_finite(start) and _is_finite(end)) or start < 0.0 or end < 0.0:
            raise ValueError(f"a Ramp needs finite factors >= 0, got start={start!r}, end={end!r}")
        if stop is not None and not (_is_finite(stop) and stop > begin):
            raise ValueError(
                f"a Ramp needs a stop after its begin={begin!r}, got stop={stop!r}: write a later "
                "time, or leave it out"
            )
        choices = (("shape", shape, get_args(Shape)), ("unit", unit, get_args(Unit)))
        for key, value, known in choices:
            if value not in known:
                raise ValueError(
                    f"unknown {key} {value!r} of a Ramp: write one of {', '.join(map(repr, known))}"
                )
        self.duration, self.start, self.end, self.begin = duration, start, end, begin
        self.shape, self.unit, self.stop = shape, unit, stop

    def __call__(self, step: int, epoch: int) -> float:
        """Return the factor after ``step`` optimizer steps and ``epoch`` epochs."""
        time = {"steps": step, "epochs": epoch}[self.unit]
        if self.stop is not None and time >= self.stop:
            return 0.0
        u = min(max((time - self.begin) / self.duration, 0.0), 1.0)
        if self.shape == "cosine":
            u = 0.5 * (1.0 - math.cos(math.pi * u))
        return self.start + (self.end - self.start) * u


def _is_finite(number: object) -> bool:
    return isinstance(number, (int, float)) and math.isfinite(number)
