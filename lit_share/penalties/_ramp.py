"""Schedules: how the strength of a penalty changes during training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

Shape = Literal["linear", "cosine"]
Unit = Literal["steps", "epochs"]

# The factor of the strength, given the optimizer steps and the epochs that are done.
Schedule = Callable[[int, int], float]


class Ramp:
    r"""A factor that goes from one value to another, and stays there.

    .. math::
        f(t) = \text{start} + (\text{end} - \text{start})\, u, \qquad
        u = \operatorname{clip}\left(\frac{t - \text{begin}}{\text{duration}}, 0, 1\right),
        \quad \text{or } \frac{1 - \cos \pi u}{2} \text{ in its place}

    ``Ramp(duration=1000)`` is a linear warm-up. The factor depends on nothing but the time, so a resumed run goes on
    where it stopped.

    Args:
        duration: How long the ramp takes, in ``unit``, at least 1.
        start: Factor of the strength before the ramp, at least 0.
        end: Factor of the strength after the ramp, at least 0.
        begin: When the ramp begins, in ``unit``, at least 0.
        shape: ``"linear"``, or ``"cosine"`` for a smooth beginning and end.
        unit: Optimizer ``"steps"`` or ``"epochs"``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> ramp = Ramp(duration=10, unit="epochs")
        >>> [ramp(step=0, epoch=epoch) for epoch in (0, 5, 10, 20)]
        [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self,
        duration: int,
        start: float = 0.0,
        end: float = 1.0,
        begin: int = 0,
        shape: Shape = "linear",
        unit: Unit = "steps",
    ) -> None:
        numbers = all(
            isinstance(number, (int, float)) and math.isfinite(number)
            for number in (duration, begin)
        )
        if not numbers or duration < 1 or begin < 0:
            raise ValueError(
                f"a Ramp needs duration >= 1 and begin >= 0, got duration={duration!r}, begin={begin!r}"
            )
        if not all(
            isinstance(f, (int, float)) and math.isfinite(f) and f >= 0.0 for f in (start, end)
        ):
            raise ValueError(f"a Ramp needs finite factors >= 0, got start={start!r}, end={end!r}")
        for key, value, known in (
            ("shape", shape, get_args(Shape)),
            ("unit", unit, get_args(Unit)),
        ):
            if value not in known:
                raise ValueError(
                    f"unknown {key} {value!r} of a Ramp: write one of {', '.join(map(repr, known))}"
                )
        self.duration, self.start, self.end, self.begin = duration, start, end, begin
        self.shape, self.unit = shape, unit

    def __call__(self, step: int, epoch: int) -> float:
        """The factor after ``step`` optimizer steps and ``epoch`` epochs."""
        elapsed = (step if self.unit == "steps" else epoch) - self.begin
        u = min(max(elapsed / self.duration, 0.0), 1.0)
        if self.shape == "cosine":
            u = 0.5 * (1.0 - math.cos(math.pi * u))
        return self.start + (self.end - self.start) * u
