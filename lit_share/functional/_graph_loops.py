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
def _dot(x, y):
    total = 0.0
    for k in range(len(x)):
        total += x[k] * y[k]
    return total


@njit(inline="always")
def _multiply(x, gram, product):
    for i in range(len(x)):
        for k in range(len(gram)):
            product[i, k] = 0.0
            for m in range(len(gram)):
                product[i, k] += x[i, m] * gram[m, k]


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
def _jump(first, second, weights, steps, clusters, g, forces, c, sums, total):
    count = len(steps)
    labels, sizes, is_free = clusters
    # Members without the forces within their cluster, and the means of clusters.
    for e in range(len(first)):
        i, j = first[e], second[e]
        if labels[i] == labels[j] and is_free[labels[i]]:
            for k in range(count):
                c[i, k] += steps[i] * forces[e, k]
                c[j, k] -= steps[j] * forces[e, k]
    sums[:], total[:] = 0.0, 0.0
    for i in range(count):
        if is_free[labels[i]]:
            total[labels[i]] += 1.0 / steps[i]
            for k in range(count):
                sums[labels[i], k] += c[i, k] / steps[i]
    # With f_i = (W_i − mean) / t_i the forces (f_i − f_j) / n move all n members to the mean.
    for e in range(len(first)):
        i, j, label = first[e], second[e], labels[first[e]]
        if labels[j] == label and is_free[label]:
            for k in range(count):
                mean = sums[label, k] / total[label]
                f_i, f_j = (c[i, k] - mean) / steps[i], (c[j, k] - mean) / steps[j]
                forces[e, k] = (f_i - f_j) / sizes[label]
    for e in range(len(first)):
        i, j, a = first[e], second[e], weights[e]
        if labels[i] == labels[j] and is_free[labels[i]]:
            square = 0.0
            for k in range(count):
                product = 0.0
                for m in range(count):
                    product += g[k, m] * forces[e, m]
                square += product * forces[e, k]
            kept = a / math.sqrt(square) if square > a * a else 1.0
            for k in range(count):
                forces[e, k] *= kept
                c[i, k] -= steps[i] * forces[e, k]
                c[j, k] += steps[j] * forces[e, k]


@_reduction
def solve_duals(gram, first, second, weights, steps, moves, leaders, begin, end):
    """Write the coefficients and leaders of `Clusters` for groups from ``begin`` to ``end``."""
    count, edges = len(steps), len(first)
    # Forces and members as coefficients, and their products with the Gram matrix: an inner product
    # takes N multiplications then, rather than N².
    forces, forces_g = np.empty((edges, count)), np.empty((edges, count))
    c, c_g = np.empty((count, count)), np.empty((count, count))
    row, row_g = np.empty(count), np.empty(count)
    sums, total = np.empty((count, count)), np.empty(count)
    is_near, labels = np.empty(edges, np.bool_), np.empty(count, np.int64)
    distances, is_inside = np.empty(edges), np.empty(edges, np.bool_)
    sizes, is_free = np.empty(count, np.int64), np.empty(count, np.bool_)
    all_steps = steps.sum()
    for group in range(begin, end):
        g = gram[group]
        largest = 0.0
        for i in range(count):
            largest = max(largest, g[i, i])
            for k in range(count):
                c[i, k] = 1.0 if i == k else 0.0
                c_g[i, k] = g[i, k]
        gap, energy = 0.0, 0.0
        # The first turn sets the forces that `_duals` starts from.
        for turn in range(MOST_TURNS * count + 1):
            change = 0.0
            for e in range(edges):
                i, j, a = first[e], second[e], weights[e]
                both = steps[i] + steps[j]
                if turn == 0:
                    for k in range(count):
                        forces[e, k] = forces_g[e, k] = row[k] = 0.0
                        row_g[k] = (g[i, k] - g[j, k]) / all_steps
                    row[i], row[j] = 1.0 / all_steps, -1.0 / all_steps
                else:
                    for k in range(count):
                        row[k] = forces[e, k] + (c[i, k] - c[j, k]) / both
                        row_g[k] = forces_g[e, k] + (c_g[i, k] - c_g[j, k]) / both
                square = _dot(row, row_g)
                is_inside[e] = square <= a * a
                kept = 1.0 if is_inside[e] else a / math.sqrt(square)
                for k in range(count):
                    d, d_g = kept * row[k] - forces[e, k], kept * row_g[k] - forces_g[e, k]
                    forces[e, k] += d
                    forces_g[e, k] += d_g
                    c[i, k] -= steps[i] * d
                    c[j, k] += steps[j] * d
                    c_g[i, k] -= steps[i] * d_g
                    c_g[j, k] += steps[j] * d_g
                    change = max(change, both * abs(d))
            if turn == 0:
                continue
            if turn <= _JUMPS and is_inside.any():
                _find_clusters(first, second, is_inside, steps, labels, sizes, is_free)
                clusters = (labels, sizes, is_free)
                _jump(first, second, weights, steps, clusters, g, forces, c, sums, total)
                _multiply(forces, g, forces_g)
            # Products are computed anew, so that rounding errors do not add up.
            _multiply(c, g, c_g)
            gap, energy, value = 0.0, 0.0, 0.0
            for e in range(edges):
                i, j = first[e], second[e]
                square, along = 0.0, 0.0
                for k in range(count):
                    product = c_g[i, k] - c_g[j, k]
                    square += product * (c[i, k] - c[j, k])
                    along += product * forces[e, k]
                distances[e] = math.sqrt(max(square, 0.0))
                value += weights[e] * distances[e]
                gap += weights[e] * distances[e] - along
            # The energy is that of the moves, which the gap is compared with.
            for i in range(count):
                if steps[i] > 0.0:
                    square = 0.0
                    for k in range(count):
                        square += (c[i, k] - (i == k)) * (c_g[i, k] - g[i, k])
                    energy += max(square, 0.0) / (2.0 * steps[i])
            if change <= LEAST_CHANGE or gap <= max(GAP * energy, LEAST_GAP * value):
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
                for k in range(count):
                    sums[own[i], k] += c[i, k] / steps[i]
        for i in range(count):
            leader = own[i]
            for k in range(count):
                moves[group, i, k] = 0.0
                if steps[leader] > 0.0:
                    moves[group, i, k] = sums[leader, k] / total[leader] - (k == leader)


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
