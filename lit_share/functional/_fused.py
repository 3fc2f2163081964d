"""Launch the compiled loops of `_loops` on ties.

The loops support contiguous float32 and float64 tensors on the host, and the norms, groupings and
centers whose properties they know. They decline other ties, which `_plain` computes.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, groupby, pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# The kinds of ties are numbered as in `_loops`, which is not imported for them: Numba takes 0.3 s.
_SINGLE, _PAIR, _JOINT, _MEAN = range(4)

# Elements of a job. They fit into a core's cache, so that a group is read from memory once.
_JOB = 2**15
# Jobs of a matrix of columns. Each has its own sums, as many as the matrix has columns.
_COLUMN_JOBS = 16
# Elements that a thread takes at a time. Fewer are processed before another thread wakes up.
_CHUNK = 2**18
# A loop and those that it calls are fewer files than this.
_MOST_FILES = 20
# Seconds after which a compilation says what takes long.
_LONG = 2.0

# The loops that this process has compiled, or loaded from the cache, by name and dtype.
_READY: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
_LOG = logging.getLogger("lit_share")

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class Layout(NamedTuple):
    """The sizes (outer, groups, inner) of a contiguous tensor whose middle index is the group."""

    outer: int
    groups: int
    inner: int

    @classmethod
    def of(cls, penalty: Penalty, shape: Sequence[int]) -> Layout:
        """Return the layout of a grouping that has `Groups.kept` dimensions."""
        kept = penalty.grouping.kept(len(shape))
        assert kept is not None
        # `kept` is a range of dimensions, so three products describe any number of dimensions.
        outer = np.prod(shape[: kept.start])
        groups = np.prod(shape[kept.start : kept.stop])
        inner = np.prod(shape[kept.stop :])
        return cls(int(outer), int(groups), int(inner))

    @property
    def prox_type(self) -> type[FusedProx]:
        """The class that takes the proximal step of this layout."""
        if self.outer == 1 and self.inner == 1:
            return ElementProx
        if self.outer > 1:
            return ColumnProx
        if self.groups == 1:
            return TensorProx
        return SegmentProx


def is_fusable(penalty: Penalty, tie: TieTensors, as_gradient: bool) -> bool:
    """Whether the loops support the gradient, or else the proximal step, of a tie."""
    norm, center, ndim = penalty.omega, penalty.centering, len(tie.shape)
    if tie.inside or tie.precision is not None or penalty.needs_precision:
        return False
    if penalty.grouping.kept(ndim) is None:
        return False
    knows_norm = norm.quadratic
    if not as_gradient:
        # A weighted norm needs all group norms before any group moves, which only columns have.
        is_column = Layout.of(penalty, tie.shape).prox_type is ColumnProx
        knows_norm = norm.soft_threshold or (norm.weighted and is_column)
    # A center without any of these properties is a new row of the table, and is declined.
    knows_center = center.is_zero or center.is_mean or center.follows_first or center.needs_start
    if not (knows_norm and knows_center):
        return False
    if tie.shard is not None and penalty.needs_other_shards(ndim, tie.shard.dim):
        return False
    tensors = list(tie.members)
    if center.needs_start:
        tensors += tie.start or ()
    # The loops would move aliases twice.
    has_aliases = len({tensor.data_ptr() for tensor in tie.members}) < len(tie.members)
    return is_loopable(tensors) and not has_aliases


def is_loopable(tensors: Sequence[Tensor]) -> bool:
    """Whether the loops can read and write these tensors, of which there is at least one."""
    first = tensors[0]
    if first.dtype not in _DTYPES or first.numel() == 0 or not _loops():
        return False
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.dtype == first.dtype and tensor.is_contiguous()):
            return False
        # Sharded and fake tensors have no memory of their own.
        if tensor.data_ptr() == 0:
            return False
    return True


class FusedLoops:
    """Lists of tensors of one dtype, given to loops by their addresses.

    Args:
        members: For each tie, its loopable members, which must stay the same tensors.
    """

    def __init__(self, members: Sequence[Sequence[Tensor]]) -> None:
        self.dtype = members[0][0].dtype
        self.like = np.empty(0, _DTYPES[self.dtype])
        self.first = np.cumsum([0, *map(len, members)], dtype=np.int64)
        self.members = _addresses(list(chain.from_iterable(members)))
        self.shapes = [own[0].shape for own in members]
        self.jobs = self._jobs()

    def _jobs(self) -> Jobs:
        """Return the ranges that loops get at a time, here of elements."""
        return Jobs([shape.numel() for shape in self.shapes])

    def run(self, loop: str, jobs: Jobs, *arguments: object) -> None:
        """Call a loop with all jobs, on at most as many threads as torch uses."""
        function = _READY.get((loop, self.dtype))
        if function is None:
            function = compile_loop(loop, self.like, self.members, *arguments, jobs.all[:0])
            _READY[loop, self.dtype] = function
        call = partial(function, self.like, self.members, *arguments)
        if len(jobs.chunks) == 1 or torch.get_num_threads() == 1:
            call(jobs.all)
        else:
            _call_in_turn(call, [(chunk,) for chunk in jobs.chunks])


class FusedComparison(FusedLoops):
    """Sums of squares of members and of their differences."""

    def sums(self) -> Doubles:
        """Return (between, size, equal) of `Comparison`, summed over all ties."""
        sums = np.empty((len(self.jobs.all), 3))
        self.run("compare_members", self.jobs, self.first, sums)
        total: Doubles = sums.sum(axis=0)
        return total


class FusedTies(FusedLoops):
    """Fusable ties of one penalty and one dtype.

    Args:
        penalty: The penalty.
        ties: The ties; their members must stay the same tensors.
    """

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        self.penalty, self.ties = penalty, list(ties)
        center = penalty.centering
        # A first member that the others follow does not move.
        self.moving = [range(int(center.follows_first), len(tie.members)) for tie in ties]
        self.kinds = np.array([self._kind(len(own)) for own in self.moving], np.int64)
        members: list[list[Tensor]] = []
        origins: list[Tensor | None] = []
        for tie, moving in zip(ties, self.moving, strict=True):
            members.append([tie.members[i] for i in moving])
            origins += [self._origin(tie, i) for i in moving]
        super().__init__(members)
        self.origins = _addresses(origins)
        self.scales = np.array([penalty.scale_of(tie) for tie in ties])
        # The loops use the difference d of a pair, as √2 · ‖(d/2, −d/2)‖ = ‖d‖.
        self.scales[self.kinds == _PAIR] /= math.sqrt(2.0)

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
        # The gradient of a pair is s² · d/2 = d, as s² = 2: so its scale is 1 again.
        self.factors = self.scales**2

    def add(self, strength: float, of_tie: Mapping[int, float]) -> list[TieTensors]:
        """Add the gradient; return the ties whose buffers are not supported.

        Args:
            strength: A factor of all ties.
            of_tie: A factor by the ``id`` of a tie, 1 for ties without.
        """
        addresses: list[int] = []
        written: list[Tensor] = []
        declined = []
        for tie, moving in zip(self.ties, self.moving, strict=True):
            begin, shape = len(addresses), tie.members[0].shape
            supported = True
            for buffer in tie.grads[moving.start :]:
                if buffer is None:
                    addresses.append(0)
                    continue
                addresses.append(buffer.data_ptr())
                written.append(buffer)
                # The loops trust the addresses, so a buffer of another shape would be overrun.
                supported = supported and buffer.dtype is self.dtype and buffer.shape == shape
                supported = supported and buffer.is_contiguous()
            if not supported:
                addresses[begin:] = [0] * len(moving)
                declined.append(tie)
        grads = np.array(addresses, np.int64)
        factors = self.factors
        if of_tie:
            factors = factors * [of_tie.get(id(tie), 1.0) for tie in self.ties]
        own = (self.origins, self.first, self.kinds, factors, float(strength))
        self.run("add_gradients", self.jobs, grads, *own)
        # Torch does not see these writes, but autograd must know that saved tensors changed.
        increment_version(written)
        return declined


class FusedProx(FusedTies):
    """The proximal step of norms whose groups only shrink, with a subclass for each layout."""

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        super().__init__(penalty, ties)
        self.shared = (self.origins, self.first, self.kinds)
        self._given: list[Sequence[float]] = []
        self._no_masks = np.zeros(len(ties), np.int64)

    def take(self) -> None:
        """Take the step of all ties."""
        given = [tie.steps for tie in self.ties]
        # Learning rates mostly stay, and building the arrays takes as long as small ties.
        if given != self._given:
            self._set_steps(given)
        masks = [tie.frozen for tie in self.ties]
        self.masks = self._no_masks
        if any(mask is not None for mask in masks):
            self.masks = _addresses(masks)
        self.shrink()
        increment_version(self.written)

    def _set_steps(self, given: Sequence[Sequence[float]]) -> None:
        self._given = [list(steps) for steps in given]
        steps: list[float] = []
        thresholds: list[float] = []
        self.written: list[Tensor] = []
        rows = zip(self.ties, self.moving, self.kinds, self.scales, strict=True)
        for tie, moving, kind, scale in rows:
            own = [tie.steps[i] for i in moving]
            steps += own
            moved = zip(moving, own, strict=True)
            self.written += [tie.members[i] for i, step in moved if step > 0.0]
            # Members of a pair may have different steps; `check_prox` refuses them for other ties.
            step = sum(own) if kind == _PAIR else own[0]
            thresholds.append(step * scale**2)
        self.steps, self.thresholds = np.array(steps), np.array(thresholds)
        # Ties of step 0 have weight 0. The limit keeps weights finite for subnormal thresholds.
        with np.errstate(divide="ignore"):
            weights = np.minimum(self.scales / self.thresholds, np.finfo(self.like.dtype).max)
        self.weights = np.where(self.thresholds > 0.0, weights, 0.0)

    def shrink(self) -> None:
        """Move the members."""
        raise NotImplementedError


class ElementProx(FusedProx):
    """The step if every element is a group."""

    def shrink(self) -> None:
        """Move the members in one pass."""
        arguments = (*self.shared, self.steps, self.weights, self.thresholds, self.masks)
        self.run("shrink_elements", self.jobs, *arguments)


class SegmentProx(FusedProx):
    """The step if groups are segments: several ranges of adjacent elements."""

    def _jobs(self) -> Jobs:
        """Return ranges of segments."""
        layouts = [Layout.of(self.penalty, tie.shape) for tie in self.ties]
        self.widths = np.array([layout.inner for layout in layouts], np.int64)
        return Jobs([layout.groups for layout in layouts], self.widths)

    def shrink(self) -> None:
        """Compute the norm of each segment, and move it while it is in the cache."""
        own = (self.steps, self.weights, self.masks, self.widths)
        self.run("shrink_segments", self.jobs, *self.shared, *own)


class TensorProx(FusedProx):
    """The step if a tensor is a group."""

    def shrink(self) -> None:
        """Compute the norm of each job, combine the norms of a tie, and move the members."""
        norms = np.empty(len(self.jobs.all))
        self.run("norms_of_ranges", self.jobs, *self.shared, self.weights, norms)
        totals = np.zeros(len(self.ties))
        # A sum of squares would overflow or underflow where `hypot` does not.
        np.hypot.at(totals, self.jobs.all[:, 0], norms)
        arguments = (*self.shared, self.steps, self.weights, self.masks, totals)
        self.run("move_ranges", self.jobs, *arguments)


class ColumnProx(FusedProx):
    """The step if groups are columns, or ranges of adjacent columns, of a matrix."""

    def _jobs(self) -> Jobs:
        """Return ranges of the rows of matrices."""
        layouts = [Layout.of(self.penalty, tie.shape) for tie in self.ties]
        self.groups = np.array([layout.groups for layout in layouts], np.int64)
        self.inner = np.array([layout.inner for layout in layouts], np.int64)
        self.widths = self.groups * self.inner
        return Jobs([layout.outer for layout in layouts], self.widths, most=_COLUMN_JOBS)

    def shrink(self) -> None:
        """Sum the squares of each column over the jobs of a tie, and move the members."""
        # Each job has its own sums, so that threads do not write to the same numbers.
        widths = self.widths[self.jobs.all[:, 0]]
        ends = np.cumsum(widths)
        squares = np.empty(int(ends[-1]))
        arguments = (*self.shared, self.weights, self.widths, ends - widths, squares)
        self.run("squares_of_columns", self.jobs, *arguments)
        norms = []
        jobs = zip(self.jobs.all[:, 0].tolist(), np.split(squares, ends[:-1]), strict=True)
        for tie, own in groupby(jobs, key=lambda job: job[0]):
            total = np.sum([columns for _, columns in own], axis=0)
            of_groups = total.reshape(self.groups[tie], self.inner[tie]).sum(axis=1)
            norms.append(np.sqrt(of_groups))
        fractions = self._fractions(np.concatenate(norms))
        fractions = np.repeat(fractions, np.repeat(self.inner, self.groups))
        fractions = fractions.astype(self.like.dtype)
        starts = np.cumsum(self.widths) - self.widths
        own_steps = (self.steps, self.weights, self.widths, fractions, starts)
        self.run("move_columns", self.jobs, *self.shared, *own_steps)

    def _fractions(self, norms: Doubles) -> Doubles:
        """Return the fraction of its deviation that each group keeps, and freeze groups at 0.

        Args:
            norms: The norms of all groups, divided by the thresholds of their ties.
        """
        ends = np.cumsum(self.groups)
        masks: list[tuple[slice, npt.NDArray[np.bool_]]] = []
        for tie, begin, end in zip(self.ties, ends - self.groups, ends, strict=True):
            if tie.frozen is not None:
                masks.append((slice(begin, end), tie.frozen.view(-1).numpy()))
        for groups, mask in masks:
            norms[groups][mask] = 0.0
        # Where squares have overflowed, a norm is so large that it keeps everything.
        norms = np.minimum(norms, 1e100)
        of_ties = [torch.from_numpy(own) for own in np.split(norms, ends[:-1])]
        weights = [self.penalty.owl_weights(n) for n in of_ties]
        assert self.penalty.omega.prox is not None
        # These norms are homogeneous, so dividing by a threshold leaves a step of size 1.
        shrunk = self.penalty.omega.prox(of_ties, weights, [1.0] * len(of_ties))
        kept: Doubles = np.concatenate([r.numpy() for r in shrunk])
        np.divide(kept, norms, out=kept, where=norms > 0.0)
        for groups, mask in masks:
            mask |= (kept[groups] == 0.0) & (norms[groups] > 0.0)
        return kept


class Jobs:
    """Ranges of ties that fit into the cache.

    Attributes:
        all: An array with a row ``(tie, begin, count, number)`` for each job.
        chunks: The same rows, in parts that a thread takes at a time.

    Args:
        lengths: The length of each tie, in elements, segments or rows of a matrix.
        widths: The elements of a segment or row; 1 if lengths are in elements.
        most: The most jobs of a tie, which are larger than the cache then.
    """

    def __init__(
        self, lengths: Sequence[int], widths: Longs | None = None, most: int | None = None
    ) -> None:
        jobs: list[tuple[int, int, int, int]] = []
        sizes: list[int] = []
        for tie, length in enumerate(lengths):
            width = 1
            if widths is not None:
                width = int(widths[tie])
            each = max(_JOB // width, 1)
            if most is not None:
                each = max(each, math.ceil(length / most))
            for begin in range(0, length, each):
                count = min(each, length - begin)
                jobs.append((tie, begin, count, len(jobs)))
                sizes.append(count * width)
        self.all: Longs = np.array(jobs, np.int64)
        ends = np.cumsum(sizes)
        count = max(1, int(ends[-1]) // _CHUNK)
        bounds = np.searchsorted(ends, np.arange(1, count) * (ends[-1] / count)) + 1
        self.chunks: list[Longs] = [part for part in np.split(self.all, bounds) if len(part)]


def run_ranges(call: Callable[[int, int], None], length: int, least: int) -> None:
    """Call a loop with ranges ``(begin, end)`` of a length, on at most as many threads as torch.

    Args:
        call: The loop.
        length: The end of the last range.
        least: The fewest numbers of a range, below which no thread is woken up.
    """
    threads = max(1, min(torch.get_num_threads(), length // least))
    ends = [length * i // threads for i in range(threads + 1)]
    _call_in_turn(call, list(pairwise(ends)))


def _call_in_turn(call: Callable[..., None], parts: Sequence[tuple[Any, ...]]) -> None:
    """Call a loop with the arguments of each part, on at most as many threads as torch uses."""
    # Threads take parts from a common iterator: torch's OpenMP threads may keep the cores busy for
    # some milliseconds after an operation, and a thread that starts late takes less.
    rest = iter(parts)

    def work() -> None:
        for part in rest:
            call(*part)

    threads = min(torch.get_num_threads(), len(parts))
    futures = [_threads(os.getpid()).submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        # A thread that has not started by now has nothing left to do.
        if not future.cancel():
            future.result()


def compile_loop(loop: str, *arguments: object) -> Any:
    """Compile a loop for the types of these arguments, and return it; ``None`` without Numba.

    For other types, the loop compiles itself when it is called.

    Args:
        loop: The name of the loop.
        *arguments: Arguments that leave the loop nothing to do, as it is called with them.
    """
    modules = _loops()
    if not modules:
        return None
    function = next(getattr(module, loop) for module in modules if hasattr(module, loop))
    with _announced_if_slow(is_cached=bool(function.stats.cache_path)):
        # A loop is compiled before its file is written, which fails on a full disk. Loops that it
        # calls are written first, so the next attempt comes further.
        for _ in range(_MOST_FILES):
            try:
                function(*arguments)
                break
            except OSError as error:
                _LOG.warning(
                    "a compiled loop cannot be cached (%s): set NUMBA_CACHE_DIR to a directory "
                    "with free space",
                    error,
                )
    return function


@contextmanager
def _announced_if_slow(is_cached: bool) -> Iterator[None]:
    """Log what takes long if the block has not ended after ``_LONG`` seconds."""
    message = "compiling a loop of the penalties; it is cached for later runs"
    if not is_cached:
        message = (
            "compiling a loop of the penalties, as in every run: set NUMBA_CACHE_DIR to a writable "
            "directory, and it is cached"
        )
    timer = threading.Timer(_LONG, _LOG.warning, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def _loops() -> tuple[ModuleType, ...]:
    """Return the modules of compiled loops; none without Numba."""
    try:
        from lit_share.functional import _graph_loops, _isotonic_loops, _loops, _star_loops
    except ImportError:
        return ()
    return _loops, _graph_loops, _isotonic_loops, _star_loops


@cache
def _threads(process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    # A forked process has no threads of its parent, so each process has a pool.
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="lit_share")


def _addresses(tensors: Sequence[Tensor | None]) -> Longs:
    # The loops take address 0 for a tensor that is missing.
    return np.array([0 if t is None else t.data_ptr() for t in tensors], np.int64)
