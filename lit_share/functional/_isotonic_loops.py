"""The loop over the sorted numbers of a tensor, compiled by Numba."""

from __future__ import annotations

import numpy as np

from lit_share.functional._loops import _exact, _pool


@_exact
def fuse_sorted(values, step, moved):
    """Write ascending ``values`` to ``moved`` after the step of `_isotonic.fuse_plainly`."""
    total, points, end = len(values), 0, 0
    means, sizes = np.empty(total), np.empty(total, np.int64)
    while end < total:
        begin = end
        # NaN differs from itself, but a point has at least a number.
        while True:
            end += 1
            if end == total or values[end] != values[begin]:
                break
        means[points] = values[begin] - step * (begin + end - total)
        sizes[points] = end - begin
        points += 1
    begin = 0
    for pool in range(_pool(means[:points], sizes)):
        end = begin + sizes[pool]
        moved[begin:end] = means[pool]
        begin = end
