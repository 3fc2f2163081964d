"""Loops of the center of a star, compiled by Numba; `_star` and `_star_numbers` specify them.

Ranges of groups or numbers are given by ``begin`` and ``end``, so that threads can share them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lit_share.functional._duals import GAP, LEAST_CHANGE, LEAST_GAP, MOST_TURNS
from lit_share.functional._loops import _compiled, _reduction
from lit_share.functional._star import CLOSE, EPS, HALVES, PATIENCE, RIDGE
from lit_share.functional._star_numbers import NOISE

_TINY = float(np.finfo(np.float64).tiny)


@njit(inline="always")
def _height(distance, reach, weight):
    if distance <= reach:
        return weight * distance * distance / (2.0 * reach)
    return weight * (distance - 0.5 * reach)


@njit(inline="always")
def _multiply(gram, step, own_g, products):
    # The inner products of a step with deviations, and the square of the step.
    count, square = len(step), 0.0
    for i in range(count):
        product, products[i] = 0.0, 0.0
        for k in range(count):
            product += gram[i, k] * step[k]
            products[i] += own_g[i, k] * step[k]
        square += product * step[i]
    return square


@njit(inline="always")
def _height_after(fraction, square, products, inner, weights, reach):
    # With D the deviation of a member and δ a step, its distance is ‖D − δ‖.
    total = 0.0
    for i in range(len(products)):
        own = inner[i, i] - 2.0 * fraction * products[i] + fraction * fraction * square
        total += _height(math.sqrt(max(own, 0.0)), reach[i], weights[i])
    return total


@njit(inline="always")
def _begin(gram, weights, reach, row, scratch):
    # At a member, or at the mean of all.
    count = len(row)
    best, lowest, mean = 0, np.inf, 0.0
    for i in range(count):
        scratch[i] = 0.0
        for k in range(count):
            scratch[i] += gram[i, k] / count
        mean += scratch[i] / count
    for start in range(count + 1):
        height = 0.0
        for i in range(count):
            if start < count:
                square = gram[i, i] + gram[start, start] - 2.0 * gram[i, start]
            else:
                square = gram[i, i] + mean - 2.0 * scratch[i]
            height += _height(math.sqrt(max(square, 0.0)), reach[i], weights[i])
        if height < lowest:
            best, lowest = start, height
    for i in range(count):
        row[i] = 1.0 / count
        if best < count:
            row[i] = 1.0 * (i == best)


@njit(inline="always")
def _square_from(gram, row, i, scratch):
    # The squared distance of member i from the center of a row.
    count, square = len(row), 0.0
    for k in range(count):
        scratch[k] = (i == k) - row[k]
    for k in range(count):
        inner = 0.0
        for m in range(count):
            inner += gram[k, m] * scratch[m]
        square += inner * scratch[k]
    return square


@njit(inline="always")
def _noise(gram, row, i):
    # The rounding error of the distance of member i from the center of a row.
    total = 0.0
    for k in range(len(row)):
        total += abs((i == k) - row[k]) * math.sqrt(max(gram[k, k], 0.0))
    return math.sqrt(4.0 * len(row) * EPS) * total


@njit(inline="always")
def _finish(gram, weights, steps, gap, noise, row, result, scratch):
    # The center is at a member of step 0 if that is near.
    is_near, moves, leaders = result
    count, fixed, leader = len(row), -1, -1
    for i in range(count):
        square = _square_from(gram, row, i, scratch)
        most = weights[i] * steps[i] + 2.0 * math.sqrt(2.0 * gap * steps[i])
        is_near[i] = square <= most * most + max(_noise(gram, row, i), noise) ** 2
        if is_near[i] and steps[i] == 0.0 and fixed < 0:
            fixed = i
        if is_near[i] and leader < 0:
            leader = i
    if fixed >= 0:
        leader = fixed
        for k in range(count):
            row[k] = 1.0 * (k == fixed)
    for i in range(count):
        fraction = 1.0
        if not is_near[i]:
            distance = math.sqrt(max(_square_from(gram, row, i, scratch), 0.0))
            # The force of members outside of their reach is full.
            fraction = weights[i] * steps[i] / (distance if distance > 0.0 else 1.0)
        if steps[i] == 0.0:
            fraction = 0.0
        for k in range(count):
            moves[i, k] = 0.0
            if fraction != 0.0:
                moves[i, k] = fraction * (row[k] - (i == k))
        leaders[i] = leader if is_near[i] and steps[i] > 0.0 else i


@njit(inline="always")
def _solve(matrix, right):
    # Gaussian elimination of a positive definite matrix needs no exchange of rows.
    count = len(right)
    for k in range(count):
        for i in range(k + 1, count):
            factor = matrix[i, k] / matrix[k, k]
            for m in range(k + 1, count):
                matrix[i, m] -= factor * matrix[k, m]
            right[i] -= factor * right[k]
    for i in range(count - 1, -1, -1):
        for m in range(i + 1, count):
            right[i] -= matrix[i, m] * right[m]
        right[i] /= matrix[i, i]


@_reduction
def solve_star(gram, weights, steps, rows, is_near, moves, leaders, begin, end):
    """Write `Centers` and `Clusters` of the groups from ``begin`` to ``end``."""
    count = len(steps)
    reach, distances, pull = np.empty(count), np.empty(count), np.empty(count)
    inner, matrix = np.empty((count, count)), np.empty((count, count))
    own, own_g = np.empty((count, count)), np.empty((count, count))
    along, root, right = np.empty(count), np.empty(count), np.empty(count)
    mean, newton, scratch = np.empty(count), np.empty(count), np.empty(count)
    for group in range(begin, end):
        g, row = gram[group], rows[group]
        # Distances below this are rounding errors, but for members far away from most others.
        for i in range(count):
            scratch[i] = g[i, i]
        scratch.sort()
        noise = math.sqrt(4.0 * count * EPS * max(scratch[count // 2], 0.0))
        for i in range(count):
            reach[i] = max(weights[i] * steps[i], noise, _TINY)
        _begin(g, weights, reach, row, scratch)
        gap, change, idle, least_height = 0.0, np.inf, 0, np.inf
        for _ in range(MOST_TURNS * count):
            for k in range(count):
                scratch[k] = 0.0
                for m in range(count):
                    scratch[k] += row[m] * g[m, k]
            for i in range(count):
                for k in range(count):
                    own[i, k] = (i == k) - row[k]
                    own_g[i, k] = g[i, k] - scratch[k]
            total, values, energy = 0.0, 0.0, 0.0
            for i in range(count):
                for k in range(i + 1):
                    product = 0.0
                    for m in range(count):
                        product += own[i, m] * own_g[k, m]
                    inner[i, k] = inner[k, i] = product
                distances[i] = math.sqrt(max(inner[i, i], 0.0))
                pull[i] = weights[i] / max(distances[i], reach[i])
                total += pull[i]
                values += _height(distances[i], reach[i], weights[i])
                energy += steps[i] * (pull[i] * distances[i]) ** 2 / 2.0
            square, slacks = 0.0, 0.0
            for i in range(count):
                along[i] = 0.0
                for k in range(count):
                    along[i] += inner[i, k] * pull[k]
                square += pull[i] * along[i]
                slacks += max(weights[i] - pull[i] * distances[i], 0.0) + EPS * weights[i]
            square, longest = max(square, 0.0), 1.0
            # The squares of the forces of the dual, whose sum is zero.
            for i in range(count):
                force = pull[i] * distances[i]
                fraction = (max(weights[i] - force, 0.0) + EPS * weights[i]) / slacks
                own_square = force * force - 2.0 * fraction * pull[i] * along[i]
                right[i] = max(own_square + fraction * fraction * square, 0.0)
                longest = max(longest, math.sqrt(right[i]) / weights[i])
            gap = 0.0
            for i in range(count):
                force = pull[i] * distances[i]
                fraction = (max(weights[i] - force, 0.0) + EPS * weights[i]) / slacks
                gap += _height(distances[i], reach[i], weights[i])
                gap -= (force * distances[i] - fraction * along[i]) / longest
                gap += reach[i] / weights[i] * right[i] / (2.0 * longest * longest)
            least = max(GAP * energy, LEAST_GAP * values)
            idle = idle + 1 if values > (1.0 - EPS) * least_height else 0
            least_height = min(least_height, values)
            # Comparisons with NaN are false, and end the search.
            if not (gap > least and change > LEAST_CHANGE and idle < PATIENCE):
                # Where the height no longer falls, the rest of the gap is rounding errors.
                gap = max(min(gap, least), GAP * energy)
                break
            for i in range(count):
                root[i] = 0.0
                if distances[i] > reach[i]:
                    root[i] = math.sqrt(pull[i]) / distances[i]
                right[i] = root[i] * along[i]
            for i in range(count):
                for k in range(count):
                    matrix[i, k] = -root[i] * inner[i, k] * root[k]
                matrix[i, i] += (1.0 + RIDGE) * total
            _solve(matrix, right)
            for k in range(count):
                mean[k], newton[k] = 0.0, 0.0
                for i in range(count):
                    mean[k] += pull[i] * own[i, k] / total
                    newton[k] += root[i] * right[i] * own[i, k] / total
                newton[k] += mean[k]
            square = _multiply(g, mean, own_g, scratch)
            lowest = _height_after(1.0, square, scratch, inner, weights, reach)
            square = _multiply(g, newton, own_g, scratch)
            best = 1.0
            if _height_after(1.0, square, scratch, inner, weights, reach) > CLOSE * lowest:
                best, fraction = 0.0, 1.0
                for _ in range(HALVES):
                    fraction /= 2.0
                    height = _height_after(fraction, square, scratch, inner, weights, reach)
                    if height < lowest:
                        best, lowest = fraction, height
            change = 0.0
            for k in range(count):
                step = best * newton[k] if best > 0.0 else mean[k]
                change = max(change, abs(step))
                row[k] += step
        result = (is_near[group], moves[group], leaders[group])
        _finish(g, weights, steps, gap, noise, row, result, scratch)


@_compiled
def star_of_numbers(numbers, weights, steps, moved, begin, end):
    """Write the numbers from ``begin`` to ``end`` of all members after the step."""
    count = len(steps)
    x, points = np.empty(count), np.empty(2 * count)
    for n in range(begin, end):
        # Offsets keep the digits in which the members differ.
        origin, largest = np.float64(numbers[0, n]), 0.0
        for i in range(count):
            x[i] = np.float64(numbers[i, n]) - origin
            largest = max(largest, abs(x[i]))
            most = weights[i] * steps[i]
            points[2 * i], points[2 * i + 1] = x[i] - most, x[i] + most
        for k in range(1, 2 * count):
            point, place = points[k], k
            while place > 0 and points[place - 1] > point:
                points[place] = points[place - 1]
                place -= 1
            points[place] = point
        # The first point at which the sum of the forces is not negative.
        low, high = 0, 2 * count - 1
        while low < high:
            middle = (low + high) // 2
            force = 0.0
            for i in range(count):
                difference = points[middle] - x[i]
                if steps[i] > 0.0:
                    force += min(max(difference / steps[i], -weights[i]), weights[i])
                elif difference != 0.0:
                    force += math.copysign(weights[i], difference)
                else:
                    force += weights[i]
            if force >= 0.0:
                high = middle
            else:
                low = middle + 1
        upper = points[low]
        lower = points[max(low - 1, 0)]
        # Between two points, members have a full force, or one in proportion to their distance.
        # Distances are taken from the first of these members, which equal ones do not leave.
        sums, total, base = 0.0, 0.0, upper
        for i in range(count):
            most = weights[i] * steps[i]
            if x[i] - most >= upper:
                sums += weights[i]
            elif x[i] + most <= lower:
                sums -= weights[i]
            elif steps[i] > 0.0:
                if total == 0.0:
                    base = x[i]
                sums += (x[i] - base) / steps[i]
                total += 1.0 / steps[i]
        center = upper
        if total > 0.0:
            center = min(max(base + sums / total, lower), upper)
        common = numbers.dtype.type(origin + center)
        for i in range(count):
            if steps[i] == 0.0 and x[i] == center:
                common = numbers[i, n]
        for i in range(count):
            most = weights[i] * steps[i]
            away = center - x[i]
            if steps[i] == 0.0:
                moved[i, n] = numbers[i, n]
            elif abs(away) <= most + NOISE * largest:
                moved[i, n] = common
            else:
                moved[i, n] = numbers.dtype.type(numbers[i, n] + math.copysign(most, away))
