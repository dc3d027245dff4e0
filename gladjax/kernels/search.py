"""Numba kernels that rule components out by a lower bound of their cost.

A sample has ``r`` leading coordinates ``y``. Component ``k`` has a lower-triangular
``T_k`` (packed row by row) that whitens its marginal in these coordinates. With
``z = T_k (y - m_k)``, the partial sums of ``z_i^2`` are the squared Mahalanobis
distances of the marginals of 1, 2, ..., r coordinates. Each is a lower bound of the
next, so a component is abandoned at the first row whose sum exceeds the best cost.

The first ``r1`` rows are evaluated for all components at once, along the components
(`_first_rows`): that is one vector instruction for 8 or 16 components. Only what
survives them is looked at singly (`extend`).

Arrays: ``y (n, r)``; ``stage_means (r1, k)`` and ``stage_rows (p1, k)`` with the
components along the fast axis; ``means (k, r)`` and ``rows (k, p)`` component by
component, ``p = r (r + 1) / 2``; ``constants (k,)`` are added to the distance and are
infinite for dead components.
"""

from typing import no_type_check

import numba
import numpy as np

from gladjax.kernels.flags import PARALLEL, SERIAL


@numba.njit(**SERIAL)
@no_type_check
def _first_rows(
    y,
    stage_means,
    stage_rows,
    z,
    total,
):
    """Writes the distance over the first rows into ``total``, for all components."""
    r1, k = stage_means.shape
    total[:] = 0
    p = 0
    for i in range(r1):
        z[:] = 0
        for j in range(i + 1):
            yj = y[j]
            for c in range(k):
                z[c] += stage_rows[p, c] * (yj - stage_means[j, c])
            p += 1
        for c in range(k):
            total[c] += z[c] * z[c]


@numba.njit(**SERIAL)
@no_type_check
def extend(y, mean, rows, e, first, total, limit):
    """Adds rows from ``first`` on until the sum passes ``limit``; returns the sum."""
    r = y.shape[0]
    for j in range(first):
        e[j] = y[j] - mean[j]
    p = first * (first + 1) // 2
    for i in range(first, r):
        e[i] = y[i] - mean[i]
        z = e[0] * rows[p]
        for j in range(1, i + 1):
            z += e[j] * rows[p + j]
        p += i + 1
        total += z * z
        if total > limit:
            break
    return total


@numba.njit(**PARALLEL)
@no_type_check
def within(
    y,
    stage_means,
    stage_rows,
    means,
    rows,
    constants,
    threshold,
    skip,
    capacity,
    chunk,
):
    """Lists the components whose bound does not exceed a threshold.

    Args:
      y: Leading coordinates of the samples.
      stage_means: Means, first rows, components along the fast axis.
      stage_rows: Packed rows, likewise.
      means: Means in the leading coordinates.
      rows: Packed whitening rows.
      constants: What is added to the distance, infinite for dead components.
      threshold: Largest bound of interest, for each sample.
      skip: A component to leave out for each sample, or -1.
      capacity: Entries to keep for a sample.
      chunk: Samples per task.

    Returns:
      For each sample the number found (it may exceed ``capacity``; only the first ones
      are kept), their components, the least bound above the threshold, and the number
      that survived the first rows.
    """
    n = y.shape[0]
    r1, k = stage_means.shape
    found = np.zeros(n, np.int32)
    ids = np.empty((n, capacity), np.int32)
    margin = np.empty(n, y.dtype)
    survivors = np.empty(n, np.int32)
    for task in numba.prange((n + chunk - 1) // chunk):
        z = np.empty(k, y.dtype)
        total = np.empty(k, y.dtype)
        e = np.empty(y.shape[1], y.dtype)
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            _first_rows(y[i], stage_means, stage_rows, z, total)
            top = threshold[i]
            lost = np.inf
            count = 0
            kept = 0
            for c in range(k):
                bound = total[c] + constants[c]
                if bound <= top and c != skip[i] and constants[c] < np.inf:
                    count += 1
                    limit = top - constants[c]
                    q = extend(y[i], means[c], rows[c], e, r1, total[c], limit)
                    bound = q + constants[c]
                    if bound <= top:
                        if kept < capacity:
                            ids[i, kept] = c
                        kept += 1
                if bound > top:
                    lost = min(lost, bound)
            found[i] = kept
            margin[i] = lost
            survivors[i] = count
    return found, ids, margin, survivors


@numba.njit(**PARALLEL)
@no_type_check
def least(values, few, chunk):
    """Returns the columns of the few least values of every row.

    Args:
      values: ``(n, k)``.
      few: How many, at most ``k``.
      chunk: Rows per task.

    Returns:
      Columns, the least value first, the first of equals before the others.
    """
    n, k = values.shape
    ids = np.empty((n, few), np.int64)
    for task in numba.prange((n + chunk - 1) // chunk):
        best = np.empty(few, values.dtype)
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            for c in range(k):
                value = values[i, c]
                if c < few or value < best[few - 1]:
                    a = min(c, few - 1)
                    while a > 0 and value < best[a - 1]:
                        best[a], ids[i, a] = best[a - 1], ids[i, a - 1]
                        a -= 1
                    best[a], ids[i, a] = value, c
    return ids
