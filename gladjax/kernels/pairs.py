"""Numba kernel for the full costs of (sample, component) pairs.

Pairs are sorted by component and cut into tasks of a few samples, all of one component:
its rows are then read once for several samples, as the weights of an expert are in a
mixture-of-experts layer.

For a component of incomplete rank the distance has two terms (see
`gladjax.covariance`). The squared residual is ``|e|^2 - sum v_i y_i^2`` where that
loses no digits, that is where at least a tenth of ``|e|^2`` is left; elsewhere the
residual is formed, so that samples close to the span are as exact as the others.
"""

from typing import no_type_check

import numba
import numpy as np

from gladjax.kernels.flags import PARALLEL, SERIAL

KEEP = 0.1  # Share of |e|^2 below which the residual is formed explicitly.


@numba.njit(**SERIAL)
@no_type_check
def _project(e, m, rows, y):
    """Writes the products of ``m`` centred samples with all rows into ``y``."""
    d = e.shape[1]
    whole = m - m % 4
    for t in range(rows.shape[0]):
        row = rows[t]
        for a in range(0, whole, 4):
            e0, e1, e2, e3 = e[a], e[a + 1], e[a + 2], e[a + 3]
            s0 = row[0] * e0[0]
            s1 = row[0] * e1[0]
            s2 = row[0] * e2[0]
            s3 = row[0] * e3[0]
            for j in range(1, d):
                s0 += row[j] * e0[j]
                s1 += row[j] * e1[j]
                s2 += row[j] * e2[j]
                s3 += row[j] * e3[j]
            y[a, t] = s0
            y[a + 1, t] = s1
            y[a + 2, t] = s2
            y[a + 3, t] = s3
        for a in range(whole, m):
            e0 = e[a]
            s0 = row[0] * e0[0]
            for j in range(1, d):
                s0 += row[j] * e0[j]
            y[a, t] = s0


@numba.njit(**SERIAL)
@no_type_check
def outside(e, y, rows, variances):
    """Returns the squared length of what the rows leave of ``e``; spoils ``e``."""
    d = e.shape[0]
    norm = e[0] * e[0]
    for j in range(1, d):
        norm += e[j] * e[j]
    left = norm
    for t in range(rows.shape[0]):
        left -= variances[t] * y[t] * y[t]
    if left > KEEP * norm:
        return left
    for t in range(rows.shape[0]):
        weight = variances[t] * y[t]
        row = rows[t]
        for j in range(d):
            e[j] -= weight * row[j]
    left = e[0] * e[0]
    for j in range(1, d):
        left += e[j] * e[j]
    return left


@numba.njit(**PARALLEL)
@no_type_check
def costs(
    features,
    index,
    tasks,
    means,
    rows,
    variances,
    offsets,
    ranks,
    noise,
    constants,
):
    """Returns the cost of each pair.

    Args:
      features: Samples, ``(n, d)``.
      index: Sample of each pair, pairs sorted by component, ``(p,)``.
      tasks: ``(t, 3)``: component, first pair, end; a component's pairs may be split.
      means: As in `gladjax.mixture.GaussianMixture`, likewise the next five.
      rows: Whitening rows.
      variances: Variance along each row.
      offsets: First row of each component.
      ranks: Number of rows of each component.
      noise: Variance outside the rows.
      constants: What is added to the distance.

    Returns:
      Mahalanobis distance plus constant of each pair, ``(p,)``.
    """
    d = features.shape[1]
    out = np.empty(index.shape[0], means.dtype)
    for t in numba.prange(tasks.shape[0]):
        c, first, end = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        m = end - first
        r = ranks[c]
        own = rows[offsets[c] : offsets[c] + r]
        spread = variances[offsets[c] : offsets[c] + r]
        e = np.empty((m, d), means.dtype)
        y = np.empty((m, r), means.dtype)
        for a in range(m):
            x = features[index[first + a]]
            for j in range(d):
                e[a, j] = x[j] - means[c, j]
        _project(e, m, own, y)
        for a in range(m):
            total = means.dtype.type(0)
            for i in range(r):
                total += y[a, i] * y[a, i]
            if r < d:
                total += outside(e[a], y[a], own, spread) / noise[c]
            out[first + a] = total + constants[c]
    return out
