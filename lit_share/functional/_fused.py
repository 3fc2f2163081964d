"""Fused loops over ties: which ties they take, and how they are launched.

They serve contiguous float32 and float64 tensors on the host, with penalties that the rows of the
tables describe. Whatever they do not know they decline, and `_plain` takes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# How the members of a tie move; the loops know them by these numbers.
_SINGLE, _PAIR, _JOINT, _MEAN = range(4)

# Elements of a job: they fit into a core's cache, so that a group is read from memory once.
_JOB = 2**15
# Fewer elements than this are not worth waking a thread for.
_LEAST_PER_THREAD = 2**16

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class Layout(NamedTuple):
    """Groups of a contiguous tensor: (outer, groups, inner) indices, one group for each middle one."""

    outer: int
    groups: int
    inner: int

    @classmethod
    def of(cls, penalty: Penalty, shape: Sequence[int]) -> Layout:
        """Return the layout of a grouping that is made of elements."""
        kept = penalty.grouping.kept(len(shape))
        assert kept is not None
        sizes = [int(np.prod(shape[part])) for part in _parts(kept)]
        return cls(*sizes)

    @property
    def step(self) -> type[FusedProx]:
        """The proximal step for such groups."""
        if self.outer == 1 and self.inner == 1:
            return ElementProx
        if self.outer > 1:
            return ColumnProx
        return TensorProx if self.groups == 1 else RowProx


def takes(penalty: Penalty, tie: TieTensors, as_gradient: bool) -> bool:
    """Whether the loops serve a tie: only what the rows of the tables say, and nothing unknown."""
    norm, center = penalty.omega, penalty.centering
    knows_norm = norm.quadratic if as_gradient else norm.soft_threshold
    knows_center = center.is_zero or center.is_mean or center.follows_first or center.needs_start
    if not (knows_norm and knows_center and _loops()):
        return False
    ndim = len(tie.shape)
    if penalty.grouping.kept(ndim) is None:
        return False
    if tie.shard is not None and penalty.needs_other_shards(ndim, tie.shard.dim):
        return False
    first = tie.members[0]
    if first.dtype not in _DTYPES or first.numel() == 0:
        return False
    tensors = [*tie.members, *((tie.start or ()) if center.needs_start else ())]
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.dtype == first.dtype and tensor.is_contiguous()):
            return False
    # Aliases would be moved twice.
    return len({tensor.data_ptr() for tensor in tie.members}) == len(tie.members)


class FusedTies:
    """Ties that the loops take, of one dtype, with the addresses of their members.

    Args:
        penalty: The penalty.
        ties: The ties; their members stay the same tensors.
    """

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        self.penalty, self.ties = penalty, list(ties)
        self.dtype = ties[0].members[0].dtype
        self.like = np.empty(0, _DTYPES[self.dtype])
        center = penalty.centering
        # The members of each tie that can move; the first does not, if the others follow it.
        self.moving = [range(int(center.follows_first), len(tie.members)) for tie in ties]
        self.kinds = np.array([self._kind(len(own)) for own in self.moving], np.int64)
        self.first = np.cumsum([0, *map(len, self.moving)], dtype=np.int64)
        pairs = [(tie, i) for tie, own in zip(ties, self.moving, strict=True) for i in own]
        self.members = _addresses([tie.members[i] for tie, i in pairs])
        self.origins = _addresses([self._origin(tie, i) for tie, i in pairs])
        scales = [
            1.0 if k == _PAIR else center.scale(len(t.members))
            for k, t in zip(self.kinds, ties, strict=True)
        ]
        self.scales = np.array(scales)

    def run(self, loop: str, jobs: Jobs, *arguments: object) -> None:
        """Call a loop with all jobs, on as many threads as torch uses and the work is worth."""
        function = getattr(_loops(), loop)
        threads = torch.get_num_threads()
        parts = jobs.parts.get(threads) or jobs.split(threads)
        call = partial(function, self.like, self.members, *arguments)
        others = [_threads(os.getpid()).submit(call, part) for part in parts[1:]]
        call(parts[0])
        for other in others:
            other.result()

    def _kind(self, moving: int) -> int:
        if self.penalty.centering.is_mean:
            return _PAIR if moving == 2 else _MEAN
        return _SINGLE if moving == 1 else _JOINT

    def _origin(self, tie: TieTensors, member: int) -> Tensor | None:
        if self.penalty.centering.follows_first:
            return tie.members[0]
        if self.penalty.centering.needs_start:
            assert tie.start is not None
            return tie.start[member]
        return None


class FusedGradient(FusedTies):
    """The gradient of a quadratic norm."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        self.jobs = Jobs([tie.shape.numel() for tie in ties])

    def add(self, strength: float) -> list[TieTensors]:
        """Add ``strength`` times the gradient; return the ties whose buffers are declined."""
        grads: list[int] = []
        written: list[Tensor] = []
        declined = []
        for tie, moving in zip(self.ties, self.moving, strict=True):
            own = [tie.grads[i] for i in moving]
            there = [grad for grad in own if grad is not None]
            if all(grad.dtype == self.dtype and grad.is_contiguous() for grad in there):
                grads += [0 if grad is None else grad.data_ptr() for grad in own]
                written += there
            else:
                grads += [0] * len(own)
                declined.append(tie)
        # Of a pair, s² times a deviation is the difference.
        alpha = (strength * self.scales**2).astype(self.like.dtype)
        own_grads = np.array(grads, np.int64)
        self.run("add_gradients", self.jobs, own_grads, self.origins, self.first, self.kinds, alpha)
        increment_version(written)  # which torch does for its own operations
        return declined


class FusedProx(FusedTies):
    """The proximal step of soft thresholds; there is a subclass for each layout of groups."""

    def take(self) -> None:
        """Take the step of all ties."""
        steps: list[float] = []
        thresholds: list[float] = []
        written: list[Tensor] = []
        for tie, moving, kind, scale in zip(
            self.ties, self.moving, self.kinds, self.scales, strict=True
        ):
            own = [tie.steps[i] for i in moving]
            steps += own
            written += [tie.members[i] for i, step in zip(moving, own, strict=True) if step > 0.0]
            thresholds.append(sum(own) if kind == _PAIR else own[0] * scale**2)
        frozen = [0 if tie.frozen is None else tie.frozen.data_ptr() for tie in self.ties]
        self.thresholds, self.masks = np.array(thresholds), np.array(frozen, np.int64)
        self.shared = (self.origins, self.first, self.kinds)
        self.shrink(np.array(steps))
        increment_version(written)

    def shrink(self, steps: Doubles) -> None:
        """Move the members, given the step of each."""
        raise NotImplementedError

    def fractions(self, norms: Sequence[Doubles]) -> list[Doubles]:
        """Return the fraction of its deviation that each group keeps, given the groups' norms.

        Ties of step 0 keep all, which is marked by −1.
        """
        kept = []
        for tie, own, scale, threshold in zip(
            self.ties, norms, self.scales, self.thresholds, strict=True
        ):
            n = scale * own
            with np.errstate(divide="ignore", invalid="ignore"):
                fraction = np.where(n > threshold, 1.0 - threshold / n, 0.0)
            if threshold == 0.0:
                fraction = np.full_like(n, -1.0)
            elif tie.frozen is not None:
                mask = tie.frozen.view(-1).numpy()
                fraction[mask] = 0.0
                mask |= (fraction == 0.0) & (n > 0.0)
            kept.append(fraction)
        return kept


class ElementProx(FusedProx):
    """Every element is a group."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        self.jobs = Jobs([tie.shape.numel() for tie in ties])

    def shrink(self, steps: Doubles) -> None:
        """Move the members in one pass."""
        arguments = (*self.shared, steps, self.scales, self.thresholds, self.masks)
        self.run("shrink_elements", self.jobs, *arguments)


class RowProx(FusedProx):
    """Groups are adjacent elements, several of them in a tensor: rows."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        layouts = [Layout.of(penalty, tie.shape) for tie in ties]
        self.widths = np.array([layout.inner for layout in layouts], np.int64)
        self.jobs = Jobs([layout.groups for layout in layouts], self.widths)

    def shrink(self, steps: Doubles) -> None:
        """Compute each row's norm and move it while it is in the cache."""
        arguments = (*self.shared, steps, self.scales, self.thresholds, self.masks, self.widths)
        self.run("shrink_rows", self.jobs, *arguments)


class TensorProx(FusedProx):
    """A whole tensor is a group."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        self.jobs = Jobs([tie.shape.numel() for tie in ties])

    def shrink(self, steps: Doubles) -> None:
        """Compute the norms of all jobs, combine those of a tie, and move the members."""
        norms = np.empty(len(self.jobs.all))
        self.run("norms_of_ranges", self.jobs, *self.shared, norms)
        totals = np.zeros((len(self.ties), 1))
        # `hypot` neither overflows nor loses small numbers.
        np.hypot.at(totals[:, 0], self.jobs.all[:, 0], norms)
        fractions = np.concatenate(self.fractions(list(totals)))
        self.run("move_ranges", self.jobs, *self.shared, steps, fractions)


class ColumnProx(FusedProx):
    """Groups are columns, or blocks of adjacent columns, of matrices."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        self.layouts = [Layout.of(penalty, tie.shape) for tie in ties]
        self.widths = np.array([layout.groups * layout.inner for layout in self.layouts], np.int64)
        self.jobs = Jobs([layout.outer for layout in self.layouts], self.widths)

    def shrink(self, steps: Doubles) -> None:
        """Sum the squares of each column over all jobs of a tie, and move the members."""
        widths = self.widths[self.jobs.all[:, 0]]
        ends = np.cumsum(widths)
        squares = np.empty(int(ends[-1]))
        arguments = (*self.shared, self.widths, ends - widths, squares)
        self.run("squares_of_columns", self.jobs, *arguments)
        norms = []
        jobs = zip(self.jobs.all[:, 0].tolist(), np.split(squares, ends[:-1]), strict=True)
        for tie, own in groupby(jobs, key=lambda job: job[0]):
            _, groups, inner = self.layouts[tie]
            total = np.sum([columns for _, columns in own], axis=0)
            norms.append(np.sqrt(total.reshape(groups, inner).sum(axis=1)))
        kept = [
            np.repeat(fraction, layout.inner)
            for fraction, layout in zip(self.fractions(norms), self.layouts, strict=True)
        ]
        starts = np.cumsum([0, *map(len, kept)])[:-1]
        starts[self.thresholds == 0.0] = -1
        fractions = np.concatenate(kept)
        self.run("move_columns", self.jobs, *self.shared, steps, self.widths, fractions, starts)


class Jobs:
    """Ranges of ties, of about as many elements as fit into the cache.

    Attributes:
        all: A row ``(tie, begin, count, number)`` for each of them.
        parts: What `split` returned, by the number of threads.

    Args:
        lengths: The length of each tie, in elements or rows.
        widths: The elements of each unit of length.
    """

    def __init__(self, lengths: Sequence[int], widths: Longs | None = None) -> None:
        jobs: list[tuple[int, int, int, int]] = []
        sizes: list[int] = []
        for tie, length in enumerate(lengths):
            width = 1 if widths is None else int(widths[tie])
            each = max(_JOB // width, 1)
            for begin in range(0, length, each):
                count = min(each, length - begin)
                jobs.append((tie, begin, count, len(jobs)))
                sizes.append(count * width)
        self.all: Longs = np.array(jobs, np.int64)
        self.parts: dict[int, list[Longs]] = {}
        self._ends = np.cumsum(sizes)

    def split(self, threads: int) -> list[Longs]:
        """Split the jobs into parts of about equally many elements, at most one for each thread."""
        total = int(self._ends[-1])
        count = max(1, min(threads, total // _LEAST_PER_THREAD))
        bounds = np.searchsorted(self._ends, np.arange(1, count) * (total / count)) + 1
        self.parts[threads] = [part for part in np.split(self.all, bounds) if len(part)]
        return self.parts[threads]


@cache
def _loops() -> ModuleType | None:
    """Import the loops; ``None`` where there is no Numba."""
    try:
        from lit_share.functional import _loops as loops  # takes a third of a second
    except ImportError:
        return None
    return loops


@cache
def _threads(process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """Return the pool of a process; a forked one does not have its parent's threads."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="lit_share")


def _parts(kept: range) -> tuple[slice, slice, slice]:
    return slice(0, kept.start), slice(kept.start, kept.stop), slice(kept.stop, None)


def _addresses(tensors: Sequence[Tensor | None]) -> Longs:
    """Return the addresses of tensors, 0 for ``None``."""
    return np.array([0 if t is None else t.data_ptr() for t in tensors], np.int64)
