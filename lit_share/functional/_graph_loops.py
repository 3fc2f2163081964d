"""Loops of the proximal step on graphs, compiled by Numba; `_duals` is their specification.

Ranges of groups or numbers are given by ``begin`` and ``end``, so that threads can share them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lit_share.functional._duals import (
    GAP,
    GAP_OF_NUMBERS,
    LEAST_CHANGE,
    LEAST_GAP,
    MOST_TURNS,
)
from lit_share.functional._loops import _compiled, _reduction

_EPS = float(np.finfo(np.float64).eps)
# The first turns after which the forces of clusters are set. Later ones would disturb the ascent.
_JUMPS = 3


@njit(inline="always")
def _spread(labels, first, second, is_linked):
    # The smallest label of a cluster wins. A path within it has at most N − 1 edges.
    for _ in range(len(labels)):
        for e in range(len(first)):
            if is_linked[e]:
                least = min(labels[first[e]], labels[second[e]])
                labels[first[e]] = labels[second[e]] = least


@njit(inline="always")
def _label(labels, first, second, is_near, steps, leaders):
    # A member of step 0 has a smaller label than those that move.
    count = len(steps)
    for i in range(count):
        labels[i] = i + count * (steps[i] > 0.0)
    _spread(labels, first, second, is_near)
    for i in range(count):
        leaders[i] = i if steps[i] == 0.0 else labels[i] % count


@njit(inline="always")
def _embed(gram, x, pivots, squares):
    # Rows of the Cholesky factor are coordinates with these inner products. The member farthest
    # from the span of those before it adds the next coordinate, until all are in the span: near
    # members before far ones would scale up rounding errors. Return the number of coordinates.
    count, rank, least = len(gram), 0, 0.0
    for i in range(count):
        squares[i] = gram[i, i]
        least = max(least, count * _EPS * gram[i, i])
    while rank < count:
        k = np.argmax(squares)
        if squares[k] <= least:
            break
        root = math.sqrt(squares[k])
        for i in range(count):
            x[i, rank] = 0.0
            if squares[i] > 0.0:
                product = gram[i, k]
                for m in range(rank):
                    product -= x[i, m] * x[k, m]
                x[i, rank] = product / root
                squares[i] -= x[i, rank] * x[i, rank]
        x[k, rank], pivots[rank], squares[k] = root, k, 0.0
        rank += 1
    return rank


@njit(inline="always")
def _add_coefficients(shift, x, pivots, rank, row):
    # Add the coefficients of a shift, of which the pivots' coordinates form a triangular system.
    for p in range(rank - 1, -1, -1):
        shift[p] /= x[pivots[p], p]
        row[pivots[p]] += shift[p]
        for m in range(p):
            shift[m] -= shift[p] * x[pivots[p], m]


@njit(inline="always")
def _find_clusters(first, second, is_inside, steps, labels, sizes, is_free):
    # Members are in one cluster if the force between them is shorter than its bound. The forces of
    # a cluster are known if it has all its edges, and no member that stays.
    count = len(steps)
    for i in range(count):
        labels[i] = i
    _spread(labels, first, second, is_inside)
    for i in range(count):
        sizes[i], is_free[i] = 0, True
    for i in range(count):
        sizes[labels[i]] += 1
        if steps[i] == 0.0:
            is_free[labels[i]] = False
    for i in range(count):
        missing = sizes[i] * (sizes[i] - 1) // 2
        for e in range(len(first)):
            missing -= labels[first[e]] == i and labels[second[e]] == i
        if missing != 0 or sizes[i] < 2:
            is_free[i] = False


@njit(inline="always")
def _jump(first, second, weights, steps, clusters, rank, forces, v, sums, total):
    count = len(steps)
    labels, sizes, is_free = clusters
    # Members without the forces within their cluster, and the means of clusters.
    for e in range(len(first)):
        i, j = first[e], second[e]
        if labels[i] == labels[j] and is_free[labels[i]]:
            for k in range(rank):
                v[i, k] += steps[i] * forces[e, k]
                v[j, k] -= steps[j] * forces[e, k]
    sums[:], total[:] = 0.0, 0.0
    for i in range(count):
        if is_free[labels[i]]:
            total[labels[i]] += 1.0 / steps[i]
            for k in range(rank):
                sums[labels[i], k] += v[i, k] / steps[i]
    # With f_i = (W_i − mean) / t_i the forces (f_i − f_j) / n move all n members to the mean.
    for e in range(len(first)):
        i, j, label = first[e], second[e], labels[first[e]]
        if labels[j] == label and is_free[label]:
            for k in range(rank):
                mean = sums[label, k] / total[label]
                f_i, f_j = (v[i, k] - mean) / steps[i], (v[j, k] - mean) / steps[j]
                forces[e, k] = (f_i - f_j) / sizes[label]
    for e in range(len(first)):
        i, j, a = first[e], second[e], weights[e]
        if labels[i] == labels[j] and is_free[labels[i]]:
            square = 0.0
            for k in range(rank):
                square += forces[e, k] * forces[e, k]
            kept = a / math.sqrt(square) if square > a * a else 1.0
            for k in range(rank):
                forces[e, k] *= kept
                v[i, k] -= steps[i] * forces[e, k]
                v[j, k] += steps[j] * forces[e, k]


@_reduction
def solve_duals(gram, first, second, weights, steps, moves, leaders, begin, end):
    """Write the coefficients and leaders of `Clusters` for groups from ``begin`` to ``end``."""
    count, edges = len(steps), len(first)
    # Members before and in the ascent, and forces, as coordinates.
    x, v, forces = np.empty((count, count)), np.empty((count, count)), np.empty((edges, count))
    row, pivots = np.empty(count), np.empty(count, np.int64)
    sums, total = np.empty((count, count)), np.empty(count)
    is_near, labels = np.empty(edges, np.bool_), np.empty(count, np.int64)
    distances, is_inside = np.empty(edges), np.empty(edges, np.bool_)
    sizes, is_free = np.empty(count, np.int64), np.empty(count, np.bool_)
    all_steps = steps.sum()
    for group in range(begin, end):
        largest = 0.0
        for i in range(count):
            largest = max(largest, gram[group, i, i])
        rank = _embed(gram[group], x, pivots, row)
        for i in range(count):
            for k in range(rank):
                v[i, k] = x[i, k]
        gap, energy = 0.0, 0.0
        # The first turn sets the forces that `_duals` starts from.
        for turn in range(MOST_TURNS * count + 1):
            change = 0.0
            for e in range(edges):
                i, j, a = first[e], second[e], weights[e]
                both, square = steps[i] + steps[j], 0.0
                for k in range(rank):
                    if turn == 0:
                        forces[e, k] = 0.0
                        row[k] = (x[i, k] - x[j, k]) / all_steps
                    else:
                        row[k] = forces[e, k] + (v[i, k] - v[j, k]) / both
                    square += row[k] * row[k]
                is_inside[e] = square <= a * a
                kept = 1.0 if is_inside[e] else a / math.sqrt(square)
                for k in range(rank):
                    d = kept * row[k] - forces[e, k]
                    forces[e, k] += d
                    v[i, k] -= steps[i] * d
                    v[j, k] += steps[j] * d
                    change = max(change, both * abs(d))
            if turn == 0:
                continue
            if turn <= _JUMPS and is_inside.any():
                _find_clusters(first, second, is_inside, steps, labels, sizes, is_free)
                clusters = (labels, sizes, is_free)
                _jump(first, second, weights, steps, clusters, rank, forces, v, sums, total)
            gap, energy, value = 0.0, 0.0, 0.0
            for e in range(edges):
                i, j = first[e], second[e]
                square, along = 0.0, 0.0
                for k in range(rank):
                    difference = v[i, k] - v[j, k]
                    square += difference * difference
                    along += difference * forces[e, k]
                distances[e] = math.sqrt(square)
                value += weights[e] * distances[e]
                gap += weights[e] * distances[e] - along
            # The energy is that of the moves, which the gap is compared with.
            for i in range(count):
                if steps[i] > 0.0:
                    square = 0.0
                    for k in range(rank):
                        square += (v[i, k] - x[i, k]) * (v[i, k] - x[i, k])
                    energy += square / (2.0 * steps[i])
            least = max(GAP * energy, LEAST_GAP * value)
            if change <= LEAST_CHANGE * math.sqrt(largest) or gap <= least:
                break
        bound = math.sqrt(2.0 * max(gap, GAP * energy))
        noise = math.sqrt(4.0 * count * _EPS * largest)
        for e in range(edges):
            reach = bound * (math.sqrt(steps[first[e]]) + math.sqrt(steps[second[e]])) + noise
            is_near[e] = distances[e] <= reach
        own = leaders[group]
        _label(labels, first, second, is_near, steps, own)
        # Forces within a cluster do not move this mean, so their values do not matter.
        sums[:], total[:] = 0.0, 0.0
        for i in range(count):
            if steps[i] > 0.0:
                total[own[i]] += 1.0 / steps[i]
                for k in range(rank):
                    sums[own[i], k] += (v[i, k] - x[i, k]) / steps[i]
        # The coordinates are differences from the member whose own are 0.
        origin = 0
        while origin < count - 1 and gram[group, origin, origin] > 0.0:
            origin += 1
        for i in range(count):
            leader, coefficients = own[i], moves[group, i]
            if leader < i:
                for k in range(count):
                    coefficients[k] = moves[group, leader, k]
                continue
            for k in range(count):
                coefficients[k] = 0.0
            if steps[leader] == 0.0:
                continue
            # The mean of the cluster, and what the forces of others move it by.
            for k in range(count):
                if own[k] == leader:
                    coefficients[k] = 1.0 / (steps[k] * total[leader])
            coefficients[leader] -= 1.0
            for k in range(rank):
                sums[leader, k] /= total[leader]
            _add_coefficients(sums[leader], x, pivots, rank, coefficients)
            for k in range(rank):
                coefficients[origin] -= sums[leader, k]


@_compiled
def solve_numbers(numbers, first, second, weights, steps, moved, begin, end):
    """Write the numbers from ``begin`` to ``end`` of all members after the step."""
    count, edges = len(steps), len(first)
    x, v, forces = np.empty(count), np.empty(count), np.empty(edges)
    sums, total = np.empty(count), np.empty(count)
    is_near, labels = np.empty(edges, np.bool_), np.empty(count, np.int64)
    leaders = np.empty(count, np.int64)
    all_steps = steps.sum()
    for n in range(begin, end):
        # Offsets keep the digits in which the members differ.
        origin, largest = np.float64(numbers[0, n]), 0.0
        for i in range(count):
            x[i] = np.float64(numbers[i, n]) - origin
            v[i] = x[i]
            largest = max(largest, abs(x[i]))
        gap, energy = 0.0, 0.0
        for turn in range(MOST_TURNS * count + 1):
            change = 0.0
            for e in range(edges):
                i, j, a = first[e], second[e], weights[e]
                both = steps[i] + steps[j]
                if turn == 0:
                    forces[e] = 0.0
                    force = (x[i] - x[j]) / all_steps
                else:
                    force = forces[e] + (v[i] - v[j]) / both
                d = min(max(force, -a), a) - forces[e]
                forces[e] += d
                v[i] -= steps[i] * d
                v[j] += steps[j] * d
                change = max(change, both * abs(d))
            if turn == 0:
                continue
            gap, energy, value = 0.0, 0.0, 0.0
            for e in range(edges):
                difference = v[first[e]] - v[second[e]]
                value += weights[e] * abs(difference)
                gap += weights[e] * abs(difference) - forces[e] * difference
            for i in range(count):
                if steps[i] > 0.0:
                    energy += (v[i] - x[i]) ** 2 / (2.0 * steps[i])
            least = max(GAP_OF_NUMBERS * energy, LEAST_GAP * value)
            if change <= LEAST_CHANGE * largest or gap <= least:
                break
        bound = math.sqrt(2.0 * max(gap, GAP_OF_NUMBERS * energy))
        for i in range(count):
            sums[i], total[i] = x[i], 0.0
        for e in range(edges):
            i, j = first[e], second[e]
            reach = bound * (math.sqrt(steps[i]) + math.sqrt(steps[j])) + 64.0 * _EPS * largest
            is_near[e] = abs(v[i] - v[j]) <= reach
            # Different numbers have the full force between them, and others none.
            if not is_near[e]:
                force = math.copysign(weights[e], v[i] - v[j])
                sums[i] -= steps[i] * force
                sums[j] += steps[j] * force
        _label(labels, first, second, is_near, steps, leaders)
        for i in range(count):
            v[i] = 0.0
        for i in range(count):
            leader = leaders[i]
            if steps[i] > 0.0:
                total[leader] += 1.0 / steps[i]
                v[leader] += (sums[i] - x[leader]) / steps[i]
        for i in range(count):
            leader = leaders[i]
            if steps[leader] > 0.0:
                move = v[leader] / total[leader]
                moved[i, n] = numbers[leader, n] + numbers.dtype.type(move)
            else:
                moved[i, n] = numbers[leader, n]
