"""Numba kernel for the first rows of all active (position, component) pairs.

The pairs are known after training and are grouped by component, in tasks of up to
`LANES` positions: a whitening row is then read once for all of them, and the inner loop
runs along the positions in vector instructions. The result is a lower bound of each
pair's cost (`gladjax.kernels.search`).
"""

from typing import no_type_check

import numba
import numpy as np

from gladjax.kernels.flags import PARALLEL, SERIAL

LANES = 64  # Positions of a task.


@numba.njit(**SERIAL)
@no_type_check
def _four_rows(e, rows, i, m, z, total):
    """Adds the squares of rows ``i`` to ``i + 3`` for ``m`` positions; ``4 | i``."""
    p0 = i * (i + 1) // 2
    p1 = p0 + i + 1
    p2 = p1 + i + 2
    p3 = p2 + i + 3
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    # The triangle at the diagonal, then two columns at a time.
    e0, e1, e2, e3 = e[i], e[i + 1], e[i + 2], e[i + 3]
    a0, a1, b1 = rows[p0 + i], rows[p1 + i], rows[p1 + i + 1]
    a2, b2, c2 = rows[p2 + i], rows[p2 + i + 1], rows[p2 + i + 2]
    a3, b3, c3, d3 = rows[p3 + i], rows[p3 + i + 1], rows[p3 + i + 2], rows[p3 + i + 3]
    for a in range(m):
        z0[a] = a0 * e0[a]
        z1[a] = a1 * e0[a] + b1 * e1[a]
        z2[a] = a2 * e0[a] + b2 * e1[a] + c2 * e2[a]
        z3[a] = (a3 * e0[a] + b3 * e1[a]) + (c3 * e2[a] + d3 * e3[a])
    for j in range(0, i, 2):
        u0, v0, u1, v1 = rows[p0 + j], rows[p0 + j + 1], rows[p1 + j], rows[p1 + j + 1]
        u2, v2, u3, v3 = rows[p2 + j], rows[p2 + j + 1], rows[p3 + j], rows[p3 + j + 1]
        eu, ev = e[j], e[j + 1]
        for a in range(m):
            x, y = eu[a], ev[a]
            z0[a] += u0 * x + v0 * y
            z1[a] += u1 * x + v1 * y
            z2[a] += u2 * x + v2 * y
            z3[a] += u3 * x + v3 * y
    for a in range(m):
        total[a] += (z0[a] * z0[a] + z1[a] * z1[a]) + (z2[a] * z2[a] + z3[a] * z3[a])


@numba.njit(**SERIAL)
@no_type_check
def _one_row(e, rows, i, m, z, total):
    """Adds the square of row ``i`` for ``m`` positions."""
    p = i * (i + 1) // 2
    z0 = z[0]
    z0[:m] = 0
    for j in range(i + 1):
        u, eu = rows[p + j], e[j]
        for a in range(m):
            z0[a] += u * eu[a]
    for a in range(m):
        total[a] += z0[a] * z0[a]


@numba.njit(**PARALLEL)
@no_type_check
def first_rows(y, entries, places, tasks, means, rows, addends, rank, scale):
    """Returns a lower bound of the cost of every active pair.

    Args:
      y: Leading coordinates of all positions, coordinate by coordinate, ``(r, n)``.
      entries: Entries of the list of active components, grouped by component.
      places: Position of each of them.
      tasks: ``(t, 3)``: component, first, end (in the grouped order), at most `LANES`.
      means: Means in the leading coordinates, ``(k, r)``.
      rows: Packed whitening rows, ``(k, r (r + 1) / 2)``.
      addends: What each entry adds to the distance.
      rank: Number of rows, at most ``r``.
      scale: Factor of the distance.

    Returns:
      Partial distance times factor plus addend of each entry.
    """
    out = np.empty(addends.shape[0], y.dtype)
    for t in numba.prange(tasks.shape[0]):
        c, first, end = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        m = end - first
        e = np.empty((rank, LANES), y.dtype)
        z = np.empty((4, LANES), y.dtype)
        total = np.zeros(LANES, y.dtype)
        for j in range(rank):
            mean = means[c, j]
            for a in range(m):
                e[j, a] = y[j, places[first + a]] - mean
        whole = rank - rank % 4
        for i in range(0, whole, 4):
            _four_rows(e, rows[c], i, m, z, total)
        for i in range(whole, rank):
            _one_row(e, rows[c], i, m, z, total)
        for a in range(m):
            entry = entries[first + a]
            out[entry] = scale * total[a] + addends[entry]
    return out


@numba.njit(**PARALLEL)
@no_type_check
def project(features, centre, basis, chunk):
    """Returns the leading coordinates of samples.

    The threads of a linear algebra library would go on waiting for more work and take
    the cores from the kernels that follow.

    Args:
      features: Samples, ``(n, d)``.
      centre: Point that is taken from them, ``(d,)``.
      basis: Directions of the coordinates, ``(d, r)``.
      chunk: Samples per task.

    Returns:
      Coordinates, ``(n, r)``.
    """
    n, d = features.shape
    r = basis.shape[1]
    out = np.zeros((n, r), features.dtype)
    for task in numba.prange((n + chunk - 1) // chunk):
        for i in range(task * chunk, min(n, (task + 1) * chunk)):
            y = out[i]
            for j in range(d):
                x = features[i, j] - centre[j]
                direction = basis[j]
                for t in range(r):
                    y[t] += x * direction[t]
    return out
