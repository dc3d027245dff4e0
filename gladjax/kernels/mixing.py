"""Numba kernels for the log-probability of every position of a map.

A position has a short list of active components, known after training, and a lower
bound of the cost of each (`gladjax.kernels.stage`). The kernels walk the list: first
the full cost of the most promising component, then of those whose bound lies within a
span of the best. What is further away changes the logarithm of the sum by less than
``k e^(-span / 2)``.

`log_sum` computes the full costs as `gladjax.kernels.pairs` does, one sample at a time.
That pays where a component's rows fit the cache. Wide features are better grouped by
component: `least` and `survivors` find the pairs that are needed.
"""

from typing import no_type_check

import numba
import numpy as np

from gladjax.kernels.flags import PARALLEL, SERIAL
from gladjax.kernels.pairs import outside
from gladjax.kernels.search import extend


@numba.njit(**SERIAL)
@no_type_check
def _full(x, mean, rows, variances, noise, e, y):
    """Returns the squared Mahalanobis distance of one sample to one component."""
    d = x.shape[0]
    r = rows.shape[0]
    for j in range(d):
        e[j] = x[j] - mean[j]
    total = e[0] * 0
    whole = r - r % 4
    for t in range(0, whole, 4):
        r0, r1, r2, r3 = rows[t], rows[t + 1], rows[t + 2], rows[t + 3]
        z0, z1, z2, z3 = r0[0] * e[0], r1[0] * e[0], r2[0] * e[0], r3[0] * e[0]
        for j in range(1, d):
            x = e[j]
            z0 += r0[j] * x
            z1 += r1[j] * x
            z2 += r2[j] * x
            z3 += r3[j] * x
        y[t], y[t + 1], y[t + 2], y[t + 3] = z0, z1, z2, z3
        total += (z0 * z0 + z1 * z1) + (z2 * z2 + z3 * z3)
    for t in range(whole, r):
        row = rows[t]
        z = row[0] * e[0]
        for j in range(1, d):
            z += row[j] * e[j]
        y[t] = z
        total += z * z
    if r < d:
        total += outside(e, y, rows, variances) / noise
    return total


@numba.njit(**PARALLEL)
@no_type_check
def log_sum(
    features,
    y,
    starts,
    ids,
    addends,
    low,
    stage,
    low_means,
    low_rows,
    means,
    rows,
    variances,
    offsets,
    ranks,
    noise,
    span,
    slack,
    chunk,
):
    """Returns ``log sum_k exp(-cost_k / 2)`` over the active components.

    Args:
      features: One sample per position, ``(n, d)``.
      y: Their leading coordinates, ``(n, r)``.
      starts: First entry of each position in the next three, and the end.
      ids: Components active at each position.
      addends: What each of them adds to the distance there.
      low: A lower bound of the cost of each.
      stage: Rows that are in this bound.
      low_means: Means in the leading coordinates.
      low_rows: Packed whitening rows.
      means: As in `gladjax.mixture.GaussianMixture`, likewise the next five.
      rows: Whitening rows.
      variances: Variance along each row.
      offsets: First row of each component.
      ranks: Number of rows of each component.
      noise: Variance outside the rows.
      span: Costs further than this from the least one are left out.
      slack: What is added to a threshold before bounds are compared with it.
      chunk: Positions per task.

    Returns:
      The logarithms, ``(n,)``; minus infinity where nothing is active.
    """
    n, d = features.shape
    out = np.empty(n, np.float64)
    most = 0
    for i in range(n):
        most = max(most, starts[i + 1] - starts[i])
    tighter = y.shape[1] > stage and y.shape[1] < d
    for task in numba.prange((n + chunk - 1) // chunk):
        cost = np.empty(most, np.float64)
        low_e = np.empty(y.shape[1], y.dtype)
        e = np.empty(d, y.dtype)
        z = np.empty(d, y.dtype)
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            first, end = starts[i], starts[i + 1]
            at = -1
            least = np.inf
            for a in range(first, end):
                if low[a] < least:
                    least = low[a]
                    at = a
            if at < 0:
                out[i] = -np.inf
                continue
            c = ids[at]
            own = rows[offsets[c] : offsets[c] + ranks[c]]
            spread = variances[offsets[c] : offsets[c] + ranks[c]]
            best = np.float64(
                _full(features[i], means[c], own, spread, noise[c], e, z) + addends[at]
            )
            cost[0] = best
            kept = 1
            for a in range(first, end):
                top = best + span + slack
                if a == at or low[a] > top:
                    continue
                c = ids[a]
                if tighter:
                    limit = top - addends[a]
                    q = y.dtype.type(low[a] - addends[a])
                    q = extend(y[i], low_means[c], low_rows[c], low_e, stage, q, limit)
                    if q > limit:
                        continue
                own = rows[offsets[c] : offsets[c] + ranks[c]]
                spread = variances[offsets[c] : offsets[c] + ranks[c]]
                cost[kept] = np.float64(
                    _full(features[i], means[c], own, spread, noise[c], e, z)
                    + addends[a]
                )
                best = min(best, cost[kept])
                kept += 1
            total = 0.0
            for a in range(kept):
                total += np.exp(0.5 * (best - cost[a]))
            out[i] = np.log(total) - 0.5 * best
    return out


@numba.njit(**PARALLEL)
@no_type_check
def log_sum_of_costs(starts, costs, span, chunk):
    """Returns ``log sum_k exp(-cost_k / 2)`` where all costs are known.

    Args:
      starts: First entry of each position, and the end.
      costs: Cost of each entry.
      span: Costs further than this from the least one are left out.
      chunk: Positions per task.

    Returns:
      The logarithms, ``(n,)``; minus infinity where nothing is active.
    """
    n = starts.shape[0] - 1
    out = np.empty(n, np.float64)
    for task in numba.prange((n + chunk - 1) // chunk):
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            best = np.inf
            for a in range(starts[i], starts[i + 1]):
                best = min(best, costs[a])
            if best == np.inf:
                out[i] = -np.inf
                continue
            total = 0.0
            for a in range(starts[i], starts[i + 1]):
                if costs[a] <= best + span:
                    total += np.exp(0.5 * (best - np.float64(costs[a])))
            out[i] = np.log(total) - 0.5 * best
    return out


@numba.njit(**PARALLEL)
@no_type_check
def least(starts, low, chunk):
    """Returns the entry of least bound at each position, -1 where nothing is active.

    Args:
      starts: First entry of each position, and the end.
      low: A lower bound of the cost of each entry.
      chunk: Positions per task.
    """
    n = starts.shape[0] - 1
    out = np.full(n, -1, np.int64)
    for task in numba.prange((n + chunk - 1) // chunk):
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            best = np.inf
            for a in range(starts[i], starts[i + 1]):
                if low[a] < best:
                    best = low[a]
                    out[i] = a
    return out


@numba.njit(**PARALLEL)
@no_type_check
def survivors(
    y, starts, ids, addends, low, stage, low_means, low_rows, threshold, skip, chunk
):
    """Tells which entries may cost no more than the threshold of their position.

    Args:
      y: Leading coordinates of all positions, ``(n, r)``.
      starts: First entry of each position, and the end.
      ids: Components active at each position.
      addends: What each of them adds to the distance there.
      low: A lower bound of the cost of each.
      stage: Rows that are in this bound.
      low_means: Means in the leading coordinates.
      low_rows: Packed whitening rows.
      threshold: Largest cost of interest of each position.
      skip: An entry to leave out at each position, or -1.
      chunk: Positions per task.

    Returns:
      A boolean for each entry.
    """
    n = y.shape[0]
    out = np.zeros(low.shape[0], np.bool_)
    for task in numba.prange((n + chunk - 1) // chunk):
        e = np.empty(y.shape[1], y.dtype)
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            for a in range(starts[i], starts[i + 1]):
                if low[a] <= threshold[i] and a != skip[i]:
                    c = ids[a]
                    limit = threshold[i] - addends[a]
                    q = y.dtype.type(low[a] - addends[a])
                    q = extend(y[i], low_means[c], low_rows[c], e, stage, q, limit)
                    out[a] = q <= limit
    return out
