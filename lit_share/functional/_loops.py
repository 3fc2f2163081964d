r"""Loops over the elements of many ties, compiled by Numba, each in one pass over memory.

Tensors are given by their addresses; OWL's vectors are NumPy arrays. The members of tie t are those
from ``first[t]`` to ``first[t + 1]``, and ``kinds[t]`` says how they move:

- ``SINGLE``: one member moves towards its origin (address 0 stands for zeros);
- ``PAIR``: two members move towards each other, with different steps;
- ``JOINT``: each of several members moves towards its origin, with groups that span all members;
- ``MEAN``: three or more members move towards their mean.

With d a deviation from the origin or mean, or the difference of a pair, a group keeps the fraction

.. math:: f = (1 - 1 / n)_+, \qquad n = \lVert w d \rVert, \quad w = \text{scale} / \theta

of its deviation, which is the proximal step of the l1 norm with threshold θ. Squares of w · d
overflow only in groups that keep everything, and underflow only in groups that keep nothing. Ties
of step 0 have w = 0, and are skipped.

A *job* is a range of one tie, ``(tie, begin, count, number of the job)``, in elements, segments or
rows of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core.cgutils import alloca_once
from numba.extending import intrinsic, overload

SINGLE, PAIR, JOINT, MEAN = 0, 1, 2, 3

# Several members are combined in blocks of this many elements, whose sums stay in the cache.
_BLOCK = 512
# Stands for the elements of a mask.
_BYTES = np.empty(0, np.uint8)
# Sort keys of OWL have an index in their lower 32 bits, and the bits of a magnitude above them.
_LOW_WORD = 2**32 - 1


def _compile(function: Callable[..., Any], fastmath: set[str]) -> Any:
    compiled = njit(function, nogil=True, error_model="numpy", fastmath=fastmath)
    # Numba raises if neither the package's directory nor the user's is writable.
    with suppress(RuntimeError):
        compiled.enable_caching()
    return compiled


# `contract` allows fused multiply-adds. `reassoc` allows sums to be reordered, as they are not
# vectorised otherwise. Neither assumes finite numbers, so NaN stays NaN. `_exact` allows neither.
_compiled = partial(_compile, fastmath={"contract"})
_reduction = partial(_compile, fastmath={"contract", "reassoc"})
_exact = partial(_compile, fastmath=set())


# Numba counts references to arrays wherever functions pass them, which takes longer than a short
# segment or row. Views of memory that nobody owns are not counted, so the loops use only those:
# `_at` of tensors, `_borrowed` of arrays that the caller keeps, and `_block` on the stack.
#
# `carray` needs a pointer, and Numba has no cast from an integer to a pointer.
@intrinsic
def _pointer(_: Any, address: Any, like: Any) -> Any:  # noqa: ARG001
    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), cast


@njit(inline="always")
def _at(address, begin, count, like):
    return carray(_pointer(address + begin * like.itemsize, like), count)


@njit(inline="always")
def _borrowed(array):
    return carray(_pointer(array.ctypes.data, array), array.shape)


@intrinsic
def _stack(_: Any, like: Any) -> Any:
    def allocate(context: Any, builder: Any, *_: Any) -> Any:
        return alloca_once(builder, context.get_data_type(like.dtype), size=_BLOCK)

    return types.CPointer(like.dtype)(like), allocate


@njit(inline="always")
def _block(like):
    return carray(_stack(like), _BLOCK)


@njit(inline="always")
def _mean_offset(like, members, lo, hi, begin, count, offset):
    # The mean is taken of differences from the first member, as in `_centers`.
    first = _at(members[lo], begin, count, like)
    offset[:count] = 0.0
    for m in range(lo + 1, hi):
        member = _at(members[m], begin, count, like)
        for i in range(count):
            offset[i] += member[i] - first[i]
    # In float64, as an integer would make it, a division takes four times as long.
    number = like.dtype.type(hi - lo)
    for i in range(count):
        offset[i] /= number


@njit(inline="always")
def _mean(like, members, lo, hi, begin, count, mean):
    _mean_offset(like, members, lo, hi, begin, count, mean)
    first = _at(members[lo], begin, count, like)
    for i in range(count):
        mean[i] += first[i]


@_compiled
def add_gradients(like, members, grads, origins, first, kinds, factors, strength, jobs):
    """Add ``strength * factors[t]`` times the deviations to the gradients; factors are s²."""
    like, total = _borrowed(like), _block(like)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        a, lo, hi = like.dtype.type(strength * factors[tie]), first[tie], first[tie + 1]
        # Address 0 is a gradient that is not wanted, as of a frozen member.
        if kinds[tie] == PAIR:
            x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
            if grads[lo] and grads[lo + 1]:
                gx, gy = _at(grads[lo], begin, count, like), _at(grads[lo + 1], begin, count, like)
                for i in range(count):
                    d = a * (x[i] - y[i])
                    gx[i] += d
                    gy[i] -= d
            elif grads[lo]:
                gx = _at(grads[lo], begin, count, like)
                for i in range(count):
                    gx[i] += a * (x[i] - y[i])
            elif grads[lo + 1]:
                gy = _at(grads[lo + 1], begin, count, like)
                for i in range(count):
                    gy[i] += a * (y[i] - x[i])
        elif kinds[tie] == MEAN:
            for start in range(begin, begin + count, _BLOCK):
                n = min(_BLOCK, begin + count - start)
                x = _at(members[lo], start, n, like)
                _mean_offset(like, members, lo, hi, start, n, total)
                for m in range(lo, hi):
                    if grads[m]:
                        w, g = _at(members[m], start, n, like), _at(grads[m], start, n, like)
                        for i in range(n):
                            g[i] += a * ((w[i] - x[i]) - total[i])
        else:
            for m in range(lo, hi):
                if not grads[m]:
                    continue
                w, g = _at(members[m], begin, count, like), _at(grads[m], begin, count, like)
                if origins[m]:
                    o = _at(origins[m], begin, count, like)
                    for i in range(count):
                        g[i] += a * (w[i] - o[i])
                else:
                    for i in range(count):
                        g[i] += a * w[i]


@_reduction
def _compare_pair(x, y):
    between, size, equal = 0.0, 0.0, 0
    for i in range(len(x)):
        a, b = np.float64(x[i]), np.float64(y[i])
        between += (a - b) * (a - b)
        size += a * a + b * b
        equal += x[i] == y[i]
    return between, size, equal


@_reduction
def compare_members(like, members, first, sums, jobs):
    """Write (Σ_{i<j} ‖W_i − W_j‖², (N − 1) Σ_i ‖W_i‖², count of equal elements) of each job."""
    offset, is_equal = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.uint8)
    for j in range(len(jobs)):
        tie, begin, count, number = jobs[j]
        lo, hi = first[tie], first[tie + 1]
        between, size, equal = 0.0, 0.0, 0
        if hi - lo == 2:
            x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
            sums[number, 0], sums[number, 1], sums[number, 2] = _compare_pair(x, y)
            continue
        for start in range(begin, begin + count, _BLOCK):
            n = min(_BLOCK, begin + count - start)
            x = _at(members[lo], start, n, like)
            offset[:n], is_equal[:n] = 0.0, 1
            for m in range(lo, hi):
                w = _at(members[m], start, n, like)
                for i in range(n):
                    a = np.float64(w[i])
                    offset[i] += a - np.float64(x[i])
                    is_equal[i] &= w[i] == x[i]
                    size += a * a
            for i in range(n):
                offset[i] /= hi - lo
                equal += is_equal[i]
            # Σ_{i<j} |W_i − W_j|² is N Σ_i |W_i − mean|².
            for m in range(lo, hi):
                w = _at(members[m], start, n, like)
                for i in range(n):
                    d = (np.float64(w[i]) - np.float64(x[i])) - offset[i]
                    between += d * d
        sums[number, 0], sums[number, 1] = (hi - lo) * between, (hi - lo - 1) * size
        sums[number, 2] = equal


@_compiled
def shrink_elements(like, members, origins, first, kinds, steps, weights, thresholds, masks, jobs):
    """Take the proximal step if every element is a group."""
    like, squares, kept, center = _borrowed(like), _block(like), _block(like), _block(like)
    members, origins, steps = _borrowed(members), _borrowed(origins), _borrowed(steps)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        lo, hi, threshold = first[tie], first[tie + 1], thresholds[tie]
        if threshold == 0.0:
            continue
        t = like.dtype.type(threshold)
        # A single member and a pair need no norms: a difference is clipped instead of scaled.
        if masks[tie] == 0 and kinds[tie] == SINGLE:
            w = _at(members[lo], begin, count, like)
            if origins[lo]:
                o = _at(origins[lo], begin, count, like)
                for i in range(count):
                    d = w[i] - o[i]
                    w[i] = o[i] + (d - _clipped(d, t))
            else:
                for i in range(count):
                    # Adding 0.0 normalises -0.0, so that files can drop exact zeros.
                    w[i] = (w[i] - _clipped(w[i], t)) + like.dtype.type(0.0)
        elif masks[tie] == 0 and kinds[tie] == PAIR:
            x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
            _join_elements(x, y, t, steps[lo], steps[lo + 1], like)
        else:
            for start in range(begin, begin + count, _BLOCK):
                n = min(_BLOCK, begin + count - start)
                weight = like.dtype.type(weights[tie])
                _square_deviations(
                    like, members, origins, lo, hi, kinds[tie], start, n, weight, center, squares
                )
                for i in range(n):
                    kept[i] = _kept_fraction(math.sqrt(squares[i]))
                if masks[tie]:
                    mask = carray(_pointer(masks[tie] + start, _BYTES), n)
                    for i in range(n):
                        if mask[i]:
                            kept[i] = 0.0
                        elif kept[i] == 0.0 and squares[i] > 0.0:
                            mask[i] = 1
                _move(like, members, origins, steps, lo, hi, kinds[tie], start, n, center, kept)


@njit(inline="always")
def _clipped(d, t):
    # NaN compares false, so it gives -t, and d - clipped(d) stays NaN.
    if abs(d) <= t:
        return d
    if d > 0.0:
        return t
    return -t


@njit(inline="always")
def _kept_fraction(n):
    if n > 1.0:
        return 1.0 - 1.0 / n
    return 0.0


@_compiled
def _join_elements(x, y, t, step_x, step_y, like):
    """Shrink x[i] − y[i] by at most ``t``: move x and y in place, in proportion to their steps."""
    # x is computed from the new y, so that elements without a difference are bitwise equal.
    fraction = like.dtype.type(step_y / (step_x + step_y))
    if step_x > 0.0 and step_y > 0.0:
        for i in range(len(x)):
            d = x[i] - y[i]
            m = _clipped(d, t)
            y[i] += m * fraction
            x[i] = y[i] + (d - m)
    elif step_x > 0.0:
        for i in range(len(x)):
            d = x[i] - y[i]
            x[i] = y[i] + (d - _clipped(d, t))
    else:
        for i in range(len(x)):
            d = y[i] - x[i]
            y[i] = x[i] + (d - _clipped(d, t))


@_compiled
def _square_deviations(like, members, origins, lo, hi, kind, begin, count, weight, center, squares):
    """Write each element's squares of ``weight * d``, summed over members, to ``squares``.

    Read ``count`` elements of members ``lo`` to ``hi``; if ``kind`` is MEAN, fill ``center``, too.
    """
    x = _at(members[lo], begin, count, like)
    squares[:count] = 0.0
    if kind == PAIR:
        y = _at(members[lo + 1], begin, count, like)
        for i in range(count):
            d = (x[i] - y[i]) * weight
            squares[i] = d * d
        return
    if kind == MEAN:
        _mean(like, members, lo, hi, begin, count, center)
    for m in range(lo, hi):
        w = _at(members[m], begin, count, like)
        if kind == MEAN:
            for i in range(count):
                d = (w[i] - center[i]) * weight
                squares[i] += d * d
        elif origins[m]:
            o = _at(origins[m], begin, count, like)
            for i in range(count):
                d = (w[i] - o[i]) * weight
                squares[i] += d * d
        else:
            for i in range(count):
                d = w[i] * weight
                squares[i] += d * d


def _each(kept, i):
    """Return the fraction of element i, given an array of them, or one for all elements."""


@overload(_each)
def _overload_each(kept, i):  # noqa: ARG001
    if isinstance(kept, types.Array):
        return lambda kept, i: kept[i]
    return lambda kept, i: kept  # noqa: ARG005


@_compiled
def _move_pair(x, y, step_x, step_y, kept, like):
    """Scale x[i] − y[i] by a fraction: move x and y in place, in proportion to their steps."""
    fraction = like.dtype.type(step_y / (step_x + step_y))
    if step_x > 0.0 and step_y > 0.0:
        for i in range(len(x)):
            d = x[i] - y[i]
            shrunk = d * _each(kept, i)
            y[i] += (d - shrunk) * fraction
            x[i] = y[i] + shrunk
    elif step_x > 0.0:
        for i in range(len(x)):
            x[i] = y[i] + (x[i] - y[i]) * _each(kept, i)
    else:
        for i in range(len(x)):
            y[i] = x[i] - (x[i] - y[i]) * _each(kept, i)


@_compiled
def _move(like, members, origins, steps, lo, hi, kind, begin, count, center, kept):
    """Scale deviations by ``kept``, a fraction for each of ``count`` ≤ _BLOCK elements, in place.

    Elements from ``begin`` on of members ``lo`` to ``hi`` move to ``center``, origin or each other.
    """
    zero = like.dtype.type(0.0)
    if kind == PAIR:
        x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
        _move_pair(x, y, steps[lo], steps[lo + 1], kept, like)
        return
    for m in range(lo, hi):
        w = _at(members[m], begin, count, like)
        if kind == MEAN:
            for i in range(count):
                w[i] = center[i] + (w[i] - center[i]) * kept[i]
        elif origins[m]:
            o = _at(origins[m], begin, count, like)
            for i in range(count):
                w[i] = o[i] + (w[i] - o[i]) * kept[i]
        else:
            # Adding 0.0 normalises -0.0, so that files can drop exact zeros.
            for i in range(count):
                w[i] = w[i] * kept[i] + zero


@_reduction
def _sum_of_squares_of_pair(x, y, weight):
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        # Slices, because Numba vectorises loops from 0 only: other indices might be negative.
        a, b = x[start : start + _BLOCK], y[start : start + _BLOCK]
        part = weight - weight
        for i in range(len(a)):
            d = (a[i] - b[i]) * weight
            part += d * d
        total += part
    return total


@_reduction
def _sum_of_squares(like, members, origins, lo, hi, kind, begin, count, weight, center):
    """Return the sum of squares of ``weight * d`` over a range of elements and members, not a pair.

    Read ``count`` elements from ``begin`` on of members ``lo`` to ``hi``; add blocks in float64.
    """
    total = 0.0
    for start in range(begin, begin + count, _BLOCK):
        n = min(_BLOCK, begin + count - start)
        x = _at(members[lo], start, n, like)
        part = weight - weight
        if kind == MEAN:
            _mean_offset(like, members, lo, hi, start, n, center)
        for m in range(lo, hi):
            w = _at(members[m], start, n, like)
            if kind == MEAN:
                for i in range(n):
                    d = ((w[i] - x[i]) - center[i]) * weight
                    part += d * d
            elif origins[m]:
                o = _at(origins[m], start, n, like)
                for i in range(n):
                    d = (w[i] - o[i]) * weight
                    part += d * d
            else:
                for i in range(n):
                    d = w[i] * weight
                    part += d * d
        total += part
    return total


@njit(inline="always")
def _norm(like, members, origins, lo, hi, kind, begin, count, weight, center):
    own = like.dtype.type(weight)
    # Passing all arrays to a function takes as long as the norm of a short segment.
    if kind == PAIR:
        x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
        return math.sqrt(_sum_of_squares_of_pair(x, y, own))
    return math.sqrt(
        _sum_of_squares(like, members, origins, lo, hi, kind, begin, count, own, center)
    )


@_compiled
def shrink_segments(like, members, origins, first, kinds, steps, weights, masks, widths, jobs):
    """Take the proximal step if groups are segments of ``widths[t]`` adjacent elements."""
    like, center, kept = _borrowed(like), _block(like), _block(like)
    members, origins, steps = _borrowed(members), _borrowed(origins), _borrowed(steps)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if weights[tie] == 0.0:
            continue
        lo, hi, kind, width = first[tie], first[tie + 1], kinds[tie], widths[tie]
        for group in range(begin, begin + count):
            at = group * width
            n = _norm(like, members, origins, lo, hi, kind, at, width, weights[tie], center)
            fraction = _freeze(masks[tie], group, n, _kept_fraction(n))
            # The segment is still in the cache, so moving it now reads memory once.
            _move_all(
                like, members, origins, steps, lo, hi, kind, at, width, fraction, center, kept
            )


@_compiled
def _freeze(mask, group, norm, fraction):
    """Return ``fraction``, or 0 if the group is frozen; freeze it if 0 is kept of a norm > 0.

    ``mask`` is the address of the tie's mask, or 0 for none: then nothing is frozen.
    """
    if mask == 0:
        return fraction
    frozen = carray(_pointer(mask + group, _BYTES), 1)
    if frozen[0]:
        return 0.0
    if fraction == 0.0 and norm > 0.0:
        frozen[0] = 1
    return fraction


@njit(inline="always")
def _move_all(like, members, origins, steps, lo, hi, kind, begin, count, fraction, center, kept):
    """Scale the deviations of ``count`` elements from ``begin`` on by ``fraction``, in place."""
    if kind == PAIR:
        x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
        _move_pair(x, y, steps[lo], steps[lo + 1], like.dtype.type(fraction), like)
        return
    # `_move` takes a fraction for each element, so a block of them is set to the same number once.
    kept[: min(count, _BLOCK)] = fraction
    for start in range(begin, begin + count, _BLOCK):
        n = min(_BLOCK, begin + count - start)
        if kind == MEAN:
            _mean(like, members, lo, hi, start, n, center)
        _move(like, members, origins, steps, lo, hi, kind, start, n, center, kept)


@_compiled
def norms_of_ranges(like, members, origins, first, kinds, weights, norms, jobs):
    """Write the norm of each job's range to ``norms``; a group spans several jobs."""
    like, center = _borrowed(like), _block(like)
    members, origins = _borrowed(members), _borrowed(origins)
    for j in range(len(jobs)):
        tie, begin, count, number = jobs[j]
        lo, hi, kind = first[tie], first[tie + 1], kinds[tie]
        norms[number] = 0.0
        if weights[tie] == 0.0:
            continue
        norms[number] = _norm(
            like, members, origins, lo, hi, kind, begin, count, weights[tie], center
        )


@_compiled
def move_ranges(like, members, origins, first, kinds, steps, weights, masks, norms, jobs):
    """Scale the deviations of tie t, whose group of norm ``norms[t]`` spans several jobs."""
    like, center, kept = _borrowed(like), _block(like), _block(like)
    members, origins, steps = _borrowed(members), _borrowed(origins), _borrowed(steps)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if weights[tie] == 0.0:
            continue
        lo, hi, kind = first[tie], first[tie + 1], kinds[tie]
        fraction = _freeze(masks[tie], 0, norms[tie], _kept_fraction(norms[tie]))
        _move_all(like, members, origins, steps, lo, hi, kind, begin, count, fraction, center, kept)


@_compiled
def squares_of_columns(
    like, members, origins, first, kinds, weights, widths, offsets, squares, jobs
):
    """Write to ``squares`` each column's squares, summed over the rows of a job in float64."""
    like, block, center = _borrowed(like), _block(like), _block(like)
    members, origins, squares = _borrowed(members), _borrowed(origins), _borrowed(squares)
    for j in range(len(jobs)):
        tie, begin, count, number = jobs[j]
        lo, hi, kind, width = first[tie], first[tie + 1], kinds[tie], widths[tie]
        weight = like.dtype.type(weights[tie])
        own = squares[offsets[number] : offsets[number] + width]
        own[:] = 0.0
        if weights[tie] == 0.0:
            continue
        for row in range(begin, begin + count):
            for column in range(0, width, _BLOCK):
                n, at = min(_BLOCK, width - column), row * width + column
                _square_deviations(
                    like, members, origins, lo, hi, kind, at, n, weight, center, block
                )
                # A slice, because Numba vectorises only loops whose indices start at 0.
                part = own[column : column + n]
                for i in range(n):
                    part[i] += block[i]


@_compiled
def move_columns(
    like, members, origins, first, kinds, steps, weights, widths, fractions, starts, jobs
):
    """Scale the deviations of column i of tie t by ``fractions[starts[t] + i]``."""
    like, center, fractions = _borrowed(like), _block(like), _borrowed(fractions)
    members, origins, steps = _borrowed(members), _borrowed(origins), _borrowed(steps)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if weights[tie] == 0.0:
            continue
        lo, hi, width = first[tie], first[tie + 1], widths[tie]
        for row in range(begin, begin + count):
            for column in range(0, width, _BLOCK):
                n = min(_BLOCK, width - column)
                at = row * width + column
                if kinds[tie] == MEAN:
                    _mean(like, members, lo, hi, at, n, center)
                kept = fractions[starts[tie] + column : starts[tie] + column + n]
                _move(like, members, origins, steps, lo, hi, kinds[tie], at, n, center, kept)


@_exact
def shrink_owl(values, weights, step):
    """Take OWL's proximal step in place, as `_owl.shrink_plainly` computes it.

    Return whether weights are finite, non-negative and non-increasing; else, change nothing.
    """
    if not _descend(weights):
        return False
    is_sorted = _descend(values)
    keys = _drop_zeros(values, weights, step)
    spare = np.empty(len(keys), np.int64)
    if not is_sorted:
        # A radix sort is stable, so the upper words of float64 are sorted after the lower ones.
        for word in range(values.itemsize // 4):
            _sort_by_word(values, word, keys, spare)
    # The upper words of sorted keys, and the spare buffer, are free now. Lower words come first on
    # all platforms of Numba.
    order, sizes = keys.view(np.uint32)[0::2], keys.view(np.uint32)[1::2]
    means = spare.view(np.float64)
    # Branches that depend on random reads would wait for them, which takes as long as sorting.
    for j in range(len(order)):
        means[j] = abs(values[order[j]])
    points = _subtract_weights(means, weights, step, sizes)
    pools = _pool(means[:points], sizes)
    end = 0
    for pool in range(pools):
        begin, end = end, end + sizes[pool]
        # A mean may be rounded up, and the result must not exceed the magnitude. NaN stays NaN.
        shrunk, smallest = means[pool], abs(values[order[begin]])
        if smallest < shrunk:
            shrunk = smallest
        if shrunk <= 0.0:
            shrunk = 0.0
        for j in range(begin, end):
            values[order[j]] = math.copysign(shrunk, values[order[j]])
    return True


@_exact
def _descend(numbers):
    """Whether numbers are finite, non-negative and non-increasing."""
    # Without an early exit, so that the loop is vectorised.
    violations = 0
    for i in range(len(numbers) - 1):
        violations += not numbers[i] >= numbers[i + 1]
    if len(numbers) == 0:
        return True
    return violations == 0 and numbers[0] < np.inf and numbers[-1] >= 0.0


@_exact
def _drop_zeros(values, weights, step):
    """Return the indices of values that may stay nonzero, in reverse; make the others zero.

    Magnitudes up to the smallest weight become zero without affecting the others.
    """
    keys = np.empty(len(values), np.int64)
    count = 0
    for i in range(len(values) - 1, -1, -1):
        keys[count] = i
        value = values[i]
        # Without a branch, which half of the numbers might mispredict. NaN is kept.
        is_kept = not abs(value) <= step * weights[-1]
        values[i] = value if is_kept else math.copysign(values.dtype.type(0.0), value)
        count += is_kept
    return keys[:count]


@_exact
def _sort_by_word(values, word, keys, spare):
    """Sort keys by one word of the magnitudes, whose bits have the order of the numbers.

    Radix sort is as fast as NumPy's sort with AVX-512, and six times as fast as without.
    """
    begins = np.zeros((4, 256), np.uint32)
    words, each = values.view(np.uint32), values.itemsize // 4
    mask = _LOW_WORD
    if word == each - 1:
        mask = 2**31 - 1  # without the sign
    for j in range(len(keys)):
        i = keys[j] & _LOW_WORD
        bits = words[i * each + word] & mask
        keys[j] = bits << 32 | i
        for byte in range(4):
            begins[byte, bits >> 8 * byte & 255] += 1
    for byte in range(4):
        begin, end = begins[byte], 0
        for value in range(256):
            begin[value], end = end, end + begin[value]
        for j in range(len(keys)):
            value = keys[j] >> (32 + 8 * byte) & 255
            spare[begin[value]] = keys[j]
            begin[value] += 1
        # After four bytes, the keys are where they were.
        keys, spare = spare, keys


@_exact
def _subtract_weights(magnitudes, weights, step, sizes):
    """Replace each run of equal ascending magnitudes by its mean minus weights; return their count.

    Equal magnitudes are one point, as the means of equal numbers may be rounded differently.
    """
    points, end = 0, 0
    while end < len(magnitudes):
        magnitude, begin, total = magnitudes[end], end, 0.0
        while True:
            end += 1
            total += step * weights[len(magnitudes) - end]
            if end == len(magnitudes) or magnitudes[end] != magnitude:
                break
        magnitudes[points], sizes[points] = magnitude - total / (end - begin), end - begin
        points += 1
    return points


@_exact
def _pool(means, sizes):
    """Pool adjacent violators: merge means that do not ascend, in place; return their number.

    Numbers are added in the order of SciPy's `isotonic_regression`, so that they are rounded alike.
    """
    last, k = -1, 0
    while k < len(means):
        mean, size = means[k], sizes[k]
        k += 1
        if last >= 0 and means[last] >= mean:
            total = sizes[last] * means[last] + size * mean
            size += sizes[last]
            mean = total / size
            last -= 1
            while k < len(means) and mean >= means[k]:
                total += sizes[k] * means[k]
                size += sizes[k]
                mean = total / size
                k += 1
            while last >= 0 and means[last] >= mean:
                total += sizes[last] * means[last]
                size += sizes[last]
                mean = total / size
                last -= 1
        last += 1
        means[last], sizes[last] = mean, size
    return last + 1


@_reduction
def gram_of_pieces(like, members, first, widths, most, rows, gram, jobs):
    """Write the inner products of W_i − W_1 in float64, for each piece of each job.

    A piece of tie t has at most ``most[t]`` segments of ``widths[t]`` elements. The matrices of a
    job are those from ``rows`` of its number on.
    """
    members, gram = _borrowed(members), _borrowed(gram)
    scratch = np.empty((np.max(np.diff(first)), _BLOCK))
    offsets = _borrowed(scratch)
    for j in range(len(jobs)):
        tie, begin, count, job = jobs[j]
        lo, hi, width, each = first[tie], first[tie + 1], widths[tie], most[tie]
        row = rows[job]
        for piece in range(begin, begin + count, each):
            end = min(piece + each, begin + count) * width
            gram[row] = 0.0
            for start in range(piece * width, end, _BLOCK):
                n = min(_BLOCK, end - start)
                x = _at(members[lo], start, n, like)
                for m in range(1, hi - lo):
                    w = _at(members[lo + m], start, n, like)
                    for i in range(n):
                        offsets[m, i] = np.float64(w[i]) - np.float64(x[i])
                for m in range(1, hi - lo):
                    for other in range(1, m + 1):
                        product = 0.0
                        for i in range(n):
                            product += offsets[m, i] * offsets[other, i]
                        gram[row, m, other] += product
            for m in range(1, hi - lo):
                for other in range(1, m):
                    gram[row, other, m] = gram[row, m, other]
            row += 1


@njit(inline="always")
def _origin(moves):
    # The member that counts most for the others: one that is far away counts little, and
    # differences from it would lose the digits in which the others differ.
    best, most = 0, 0.0
    for k in range(len(moves)):
        total = 0.0
        for m in range(len(moves)):
            if m != k:
                total += abs(moves[m, k])
        if total > most:
            best, most = k, total
    return best


@_compiled
def combine_pieces(like, members, first, widths, most, rows, steps, moves, leaders, jobs):
    """Move each member to W_l + Σ_j c_lj (W_j − W_o), with c of ``moves`` and l of ``leaders``.

    Pieces are those of `gram_of_pieces`, with coefficients from ``rows`` on.
    """
    members, steps = _borrowed(members), _borrowed(steps)
    moves, leaders = _borrowed(moves), _borrowed(leaders)
    scratch = np.empty((2 * np.max(np.diff(first)), _BLOCK), like.dtype)
    block = _borrowed(scratch)
    for j in range(len(jobs)):
        tie, begin, count, job = jobs[j]
        lo, hi, width, each = first[tie], first[tie + 1], widths[tie], most[tie]
        row, number = rows[job], hi - lo
        for piece in range(begin, begin + count, each):
            end = min(piece + each, begin + count) * width
            origin = _origin(moves[row])
            for start in range(piece * width, end, _BLOCK):
                n = min(_BLOCK, end - start)
                x = _at(members[lo + origin], start, n, like)
                for m in range(number):
                    w = _at(members[lo + m], start, n, like)
                    for i in range(n):
                        block[m, i] = w[i] - x[i]
                for m in range(number):
                    if leaders[row, m] != m:
                        continue
                    w = _at(members[lo + m], start, n, like)
                    total = number + m
                    for i in range(n):
                        block[total, i] = 0.0
                    for other in range(number):
                        if other == origin:
                            continue
                        c = like.dtype.type(moves[row, m, other])
                        for i in range(n):
                            block[total, i] += c * block[other, i]
                    for i in range(n):
                        block[total, i] += w[i]
                # Members of a cluster take the same numbers, so that they are equal bit by bit.
                for m in range(number):
                    if steps[lo + m] > 0.0:
                        w = _at(members[lo + m], start, n, like)
                        total = number + leaders[row, m]
                        for i in range(n):
                            w[i] = block[total, i]
            row += 1
