r"""Loops over the elements of many ties, compiled by Numba: one pass over memory for each.

Tensors are given by their addresses. For tie t the members are those numbered from ``first[t]`` to
``first[t + 1]``, and ``kinds[t]`` says how they move:

- ``SINGLE``: one member, towards its origin (address 0 stands for zeros);
- ``PAIR``: two members, towards each other, each with a step of its own;
- ``JOINT``: members towards an origin each, with groups that all of them share;
- ``MEAN``: three members or more, towards their mean.

With d a deviation from the origin or mean, or the difference of a pair, a group keeps the fraction

.. math:: f = (1 - \theta / n)_+, \qquad n = \text{scale} \cdot \lVert d \rVert

of its deviation: the proximal step of the l1 norm with threshold θ. A *job* is a range of one tie:
``(tie, begin, count, number of the job)``, in elements or in rows. Sums of squares are computed in
float64, and scaled by the largest element where they leave its range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

SINGLE, PAIR, JOINT, MEAN = 0, 1, 2, 3

# Elements that are worked on at a time where several members are combined: they stay in the cache.
_BLOCK = 512
_compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
_reduction = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})


@intrinsic
def _pointer(_: Any, address: Any, like: Any) -> Any:  # noqa: ARG001
    """Take a number for the address of elements of an array's dtype."""

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), cast


@njit(inline="always")
def _at(address, begin, count, like):  # type: ignore[no-untyped-def]
    return carray(_pointer(address + begin * like.itemsize, like), count)


@_compiled
def add_gradients(like, members, grads, origins, first, kinds, alpha, jobs):  # type: ignore[no-untyped-def]
    """Add ``alpha[t]`` times the deviations to the gradients; ``alpha`` has s² in it."""
    total = np.empty(_BLOCK, like.dtype)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        a, lo, hi = alpha[tie], first[tie], first[tie + 1]
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
                total[:n] = 0.0
                for m in range(lo + 1, hi):
                    w = _at(members[m], start, n, like)
                    for i in range(n):
                        total[i] += w[i] - x[i]
                for i in range(n):
                    total[i] /= hi - lo
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


@_compiled
def shrink_elements(  # type: ignore[no-untyped-def]
    like, members, origins, first, kinds, steps, scales, thresholds, masks, jobs
):
    """Take the proximal step where every element is a group."""
    squares, kept = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, like.dtype)
    center = np.empty(_BLOCK, like.dtype)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        lo, hi, threshold = first[tie], first[tie + 1], thresholds[tie]
        if threshold == 0.0:
            continue
        t = like.dtype.type(threshold)
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
                _square_deviations(
                    like, members, origins, lo, hi, kinds[tie], start, n, center, squares
                )
                for i in range(n):
                    kept[i] = _kept_fraction(math.sqrt(squares[i]), scales[tie], threshold)
                if masks[tie]:
                    mask = carray(_pointer(masks[tie] + start, np.empty(0, np.uint8)), n)
                    for i in range(n):
                        if mask[i]:
                            kept[i] = 0.0
                        elif kept[i] == 0.0 and squares[i] > 0.0:
                            mask[i] = 1
                _move(like, members, origins, steps, lo, hi, kinds[tie], start, n, center, kept)


@njit(inline="always")
def _clipped(d, t):  # type: ignore[no-untyped-def]
    # NaN compares false, so it gives -t, and d - clipped(d) stays NaN.
    if abs(d) <= t:
        return d
    return t if d > 0.0 else -t


@njit(inline="always")
def _kept_fraction(norm, scale, threshold):  # type: ignore[no-untyped-def]
    n = scale * norm
    return 1.0 - threshold / n if n > threshold else 0.0


@_compiled
def _join_elements(x, y, t, step_x, step_y, like):  # type: ignore[no-untyped-def]
    """Bring the elements of a pair together; one of step 0 stays."""
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
def _square_deviations(  # type: ignore[no-untyped-def]
    like, members, origins, lo, hi, kind, begin, count, center, squares
):
    """Compute the squared deviations of each element, summed over members, and their mean."""
    x = _at(members[lo], begin, count, like)
    squares[:count] = 0.0
    if kind == PAIR:
        y = _at(members[lo + 1], begin, count, like)
        for i in range(count):
            d = np.float64(x[i] - y[i])
            squares[i] = d * d
        return
    if kind == MEAN:
        center[:count] = 0.0
        for m in range(lo + 1, hi):
            w = _at(members[m], begin, count, like)
            for i in range(count):
                center[i] += w[i] - x[i]
        for i in range(count):
            center[i] = x[i] + center[i] / (hi - lo)
    for m in range(lo, hi):
        w = _at(members[m], begin, count, like)
        if kind == MEAN:
            for i in range(count):
                d = np.float64(w[i] - center[i])
                squares[i] += d * d
        elif origins[m]:
            o = _at(origins[m], begin, count, like)
            for i in range(count):
                d = np.float64(w[i] - o[i])
                squares[i] += d * d
        else:
            for i in range(count):
                d = np.float64(w[i])
                squares[i] += d * d


@_compiled
def _move(like, members, origins, steps, lo, hi, kind, begin, count, center, kept):  # type: ignore[no-untyped-def]
    """Move a block of at most _BLOCK elements, of which each keeps a fraction of its deviation."""
    zero = like.dtype.type(0.0)
    if kind == PAIR:
        x, y = _at(members[lo], begin, count, like), _at(members[lo + 1], begin, count, like)
        step_x, step_y = steps[lo], steps[lo + 1]
        fraction = like.dtype.type(step_y / (step_x + step_y))
        for i in range(count):
            d = x[i] - y[i]
            left = d * kept[i]
            if step_x > 0.0 and step_y > 0.0:
                y[i] += (d - left) * fraction
                x[i] = y[i] + left
            elif step_x > 0.0:
                x[i] = y[i] + left
            else:
                y[i] = x[i] - left
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
            for i in range(count):
                w[i] = w[i] * kept[i] + zero


@_reduction
def _sum_of_squares(like, members, origins, lo, hi, kind, begin, count, unit):  # type: ignore[no-untyped-def]
    """Sum the squares of all deviations in a range, each divided by ``unit``."""
    total, center = 0.0, np.empty(_BLOCK if kind == MEAN else 0, like.dtype)
    x = _at(members[lo], begin, count, like)
    inverse = 1.0 / unit
    if kind == PAIR:
        y = _at(members[lo + 1], begin, count, like)
        for i in range(count):
            d = np.float64(x[i] - y[i]) * inverse
            total += d * d
    elif kind == MEAN:
        for start in range(begin, begin + count, _BLOCK):
            n = min(_BLOCK, begin + count - start)
            base = _at(members[lo], start, n, like)
            center[:n] = 0.0
            for m in range(lo + 1, hi):
                w = _at(members[m], start, n, like)
                for i in range(n):
                    center[i] += w[i] - base[i]
            for m in range(lo, hi):
                w = _at(members[m], start, n, like)
                for i in range(n):
                    d = np.float64((w[i] - base[i]) - center[i] / (hi - lo)) * inverse
                    total += d * d
    else:
        for m in range(lo, hi):
            w = _at(members[m], begin, count, like)
            if origins[m]:
                o = _at(origins[m], begin, count, like)
                for i in range(count):
                    d = np.float64(w[i] - o[i]) * inverse
                    total += d * d
            else:
                for i in range(count):
                    d = np.float64(w[i]) * inverse
                    total += d * d
    return total


@_compiled
def _largest(like, members, origins, lo, hi, kind, begin, count):  # type: ignore[no-untyped-def]
    """Return the largest magnitude of members and origins, of whose order deviations are."""
    largest = 0.0
    for m in range(lo, hi):
        w = _at(members[m], begin, count, like)
        for i in range(count):
            largest = max(largest, abs(np.float64(w[i])))
        if kind in (SINGLE, JOINT) and origins[m]:
            o = _at(origins[m], begin, count, like)
            for i in range(count):
                largest = max(largest, abs(np.float64(o[i])))
    return largest


@_compiled
def _norm(like, members, origins, lo, hi, kind, begin, count):  # type: ignore[no-untyped-def]
    total = _sum_of_squares(like, members, origins, lo, hi, kind, begin, count, 1.0)
    if 1e-280 < total < 1e280 or math.isnan(total):
        return math.sqrt(total)
    unit = _largest(like, members, origins, lo, hi, kind, begin, count)
    if unit == 0.0 or math.isinf(unit):
        return math.sqrt(total)
    total = _sum_of_squares(like, members, origins, lo, hi, kind, begin, count, unit)
    return unit * math.sqrt(total)


@_compiled
def shrink_rows(  # type: ignore[no-untyped-def]
    like, members, origins, first, kinds, steps, scales, thresholds, masks, widths, jobs
):
    """Take the proximal step where every row is a group; jobs count in rows."""
    center, kept = np.empty(_BLOCK, like.dtype), np.empty(_BLOCK, like.dtype)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if thresholds[tie] == 0.0:
            continue
        lo, hi, width = first[tie], first[tie + 1], widths[tie]
        for row in range(begin, begin + count):
            norm = _norm(like, members, origins, lo, hi, kinds[tie], row * width, width)
            fraction = _kept_fraction(norm, scales[tie], thresholds[tie])
            fraction = _frozen(masks[tie], row, norm, fraction)
            _move_all(
                like, members, origins, steps, lo, hi, kinds[tie], row * width, width, fraction,
                center, kept,
            )  # fmt: skip


@_compiled
def _frozen(mask, group, norm, fraction):  # type: ignore[no-untyped-def]
    """Return the fraction that a group keeps: none if it is frozen, or is from now on."""
    if mask == 0:
        return fraction
    frozen = carray(_pointer(mask + group, np.empty(0, np.uint8)), 1)
    if frozen[0]:
        return 0.0
    if fraction == 0.0 and norm > 0.0:
        frozen[0] = 1
    return fraction


@_compiled
def _move_all(  # type: ignore[no-untyped-def]
    like, members, origins, steps, lo, hi, kind, begin, count, fraction, center, kept
):
    """Move a range of which all elements keep one fraction."""
    kept[:] = fraction
    for start in range(begin, begin + count, _BLOCK):
        n = min(_BLOCK, begin + count - start)
        if kind == MEAN:
            x = _at(members[lo], start, n, like)
            center[:n] = 0.0
            for m in range(lo + 1, hi):
                w = _at(members[m], start, n, like)
                for i in range(n):
                    center[i] += w[i] - x[i]
            for i in range(n):
                center[i] = x[i] + center[i] / (hi - lo)
        _move(like, members, origins, steps, lo, hi, kind, start, n, center, kept)


@_compiled
def norms_of_ranges(like, members, origins, first, kinds, norms, jobs):  # type: ignore[no-untyped-def]
    """Compute the norm of each job's range, for groups that span several jobs."""
    for j in range(len(jobs)):
        tie, begin, count, number = jobs[j]
        norms[number] = _norm(
            like, members, origins, first[tie], first[tie + 1], kinds[tie], begin, count
        )


@_compiled
def move_ranges(like, members, origins, first, kinds, steps, fractions, jobs):  # type: ignore[no-untyped-def]
    """Move ranges of which all elements keep ``fractions[t]``."""
    center, kept = np.empty(_BLOCK, like.dtype), np.empty(_BLOCK, like.dtype)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if fractions[tie] < 0.0:
            continue
        lo, hi = first[tie], first[tie + 1]
        _move_all(
            like, members, origins, steps, lo, hi, kinds[tie], begin, count, fractions[tie],
            center, kept,
        )  # fmt: skip


@_compiled
def squares_of_columns(like, members, origins, first, kinds, widths, offsets, squares, jobs):  # type: ignore[no-untyped-def]
    """Sum the squared deviations of each column over a job's rows."""
    block, center = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, like.dtype)
    for j in range(len(jobs)):
        tie, begin, count, number = jobs[j]
        width = widths[tie]
        own = squares[offsets[number] : offsets[number] + width]
        own[:] = 0.0
        for row in range(begin, begin + count):
            for column in range(0, width, _BLOCK):
                n = min(_BLOCK, width - column)
                _square_deviations(
                    like, members, origins, first[tie], first[tie + 1], kinds[tie],
                    row * width + column, n, center, block,
                )  # fmt: skip
                for i in range(n):
                    own[column + i] += block[i]


@_compiled
def move_columns(  # type: ignore[no-untyped-def]
    like, members, origins, first, kinds, steps, widths, fractions, starts, jobs
):
    """Move rows of which each column keeps a fraction; those of tie t begin at ``starts[t]``."""
    center, squares = np.empty(_BLOCK, like.dtype), np.empty(_BLOCK, np.float64)
    for j in range(len(jobs)):
        tie, begin, count, _ = jobs[j]
        if starts[tie] < 0:
            continue
        lo, hi, width = first[tie], first[tie + 1], widths[tie]
        for row in range(begin, begin + count):
            for column in range(0, width, _BLOCK):
                n = min(_BLOCK, width - column)
                at = row * width + column
                if kinds[tie] == MEAN:
                    _square_deviations(like, members, origins, lo, hi, MEAN, at, n, center, squares)
                kept = fractions[starts[tie] + column : starts[tie] + column + n]
                _move(like, members, origins, steps, lo, hi, kinds[tie], at, n, center, kept)
