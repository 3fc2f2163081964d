"""Measurements side by side: contestants alternate in one process, and ratios are reported."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Call = Callable[[], object]

# Where tensors are made. Not torch's default device, which takes time in every operation.
DEVICE = torch.device(os.environ.get("LIT_SHARE_DEVICE", "cpu"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The median.
        low: The lower quartile.
        high: The upper quartile.
        unit: Of all three; ``"×"`` for ratios.
        target: The bound on the value, in the same unit; `None` without a bound.
        is_most: Whether the target is the most that the value may be, or else the least.
        against: What it is a ratio to.
    """

    what: str
    value: float
    low: float
    high: float
    against: str = ""
    target: float | None = None
    is_most: bool = True
    unit: str = "×"

    @property
    def verdict(self) -> Literal["", "met", "MISSED"]:
        """Whether the median meets the target."""
        if self.target is None:
            return ""
        met = self.value <= self.target if self.is_most else self.value >= self.target
        return "met" if met else "MISSED"

    def cells(self) -> list[str]:
        """As text: what, against what, median, quartiles, target, verdict."""
        target = "" if self.target is None else f"{'≤' if self.is_most else '≥'} {self.target:g}"
        numbers = f"{self.value:.3g} {self.unit}", f"{self.low:.3g} to {self.high:.3g}"
        return [self.what, self.against, *numbers, target, self.verdict]


def alternate(
    contestants: Mapping[str, Call], repeats: int, seconds: float = 0.02
) -> dict[str, list[float]]:
    """Time contestants in alternation; short calls are repeated within a measurement.

    Args:
        contestants: What is called, by name.
        repeats: Measurements of each one.
        seconds: How long a measurement is to take at least.

    Returns:
        Seconds for each call, in the order of the measurements: of CPU time on one thread, which
        other processes disturb less, of wall time on several, and of the stream's time on a GPU.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    calls = {}
    for name, call in contestants.items():
        call()  # warms up
        calls[name] = max(1, round(seconds / max(timed(call, 1), 1e-7)))
    for _ in range(repeats):
        for name, call in contestants.items():
            # Not timed, as the OpenMP threads of the last contestant spin for some milliseconds.
            call()
            times[name].append(timed(call, calls[name]))
    return times


def after(operation: Call, calls: Mapping[str, Call], repeats: int) -> dict[str, list[float]]:
    """Time calls in alternation, each right after an operation whose OpenMP threads still spin."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            operation()
            times[name].append(timed(call))
    return times


def ratio(
    times: Mapping[str, list[float]], one: str, other: str, what: str, **keywords: object
) -> Row:
    """Return the quartiles of the ratio of two contestants' times, over the alternations."""
    return spread(
        what,
        [a / b for a, b in zip(times[one], times[other], strict=True)],
        against=other,
        **keywords,
    )


def spread(what: str, values: list[float], **keywords: object) -> Row:
    """A row of median and quartiles."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return Row(what, median, low, high, **keywords)  # type: ignore[arg-type]


def floor(size: int) -> Call:
    """Return a call that reads half of ``size`` bytes and writes the rest, at full speed.

    It is ``add_`` on a tensor that is in cache, or not, like those of the measured call.
    """
    numbers = torch.zeros(size // 8, device=DEVICE)
    return lambda: numbers.add_(1.0)


def timed(call: Call, times: int = 1) -> float:
    """Seconds per call over ``times`` calls; on a GPU between two events of its stream."""
    if on_gpu():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / times
    before = now()
    for _ in range(times):
        call()
    return (now() - before) / times


def now() -> float:
    """Seconds on the clock of this measurement, when all that was begun has ended."""
    if on_gpu():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def on_gpu() -> bool:
    """Whether tensors are made on a GPU."""
    return DEVICE.type == "cuda"


def waits(call: Call) -> int:
    """How often a call makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
