"""Numba kernel for the first rows of all active (position, component) pairs.

The pairs are known after training and are grouped by component, in tasks of up to
`LANES` positions: a whitening row is then read once for all of them, and the inner loop
runs along the positions in vector instructions. The result is a lower bound of each
pair's cost (`gladjax.kernels.search`).
"""

from typing import no_type_check

import numba
import numpy as np

from gladjax.kernels.flags import PARALLEL

LANES = 32  # Positions of a task.


@numba.njit(**PARALLEL)
@no_type_check
def first_rows(y, entries, places, tasks, means, rows, addends, rank):
    """Returns a lower bound of the cost of every active pair.

    Args:
      y: Leading coordinates of all positions, ``(n, r)``.
      entries: Entries of the list of active components, grouped by component.
      places: Position of each of them.
      tasks: ``(t, 3)``: component, first, end (in the grouped order), at most `LANES`.
      means: Means in the leading coordinates, ``(k, r)``.
      rows: Packed whitening rows, ``(k, r (r + 1) / 2)``.
      addends: What each entry adds to the distance.
      rank: Number of rows, at most ``r``.

    Returns:
      Partial distance plus addend of each entry.
    """
    out = np.empty(addends.shape[0], y.dtype)
    for t in numba.prange(tasks.shape[0]):
        c, first, end = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        e = np.zeros((rank, LANES), y.dtype)
        z = np.empty(LANES, y.dtype)
        total = np.zeros(LANES, y.dtype)
        for a in range(end - first):
            x = y[places[first + a]]
            for j in range(rank):
                e[j, a] = x[j] - means[c, j]
        p = 0
        for i in range(rank):
            for a in range(LANES):
                z[a] = rows[c, p + i] * e[i, a]
            j = 0
            while j + 3 < i:
                w0, w1 = rows[c, p + j], rows[c, p + j + 1]
                w2, w3 = rows[c, p + j + 2], rows[c, p + j + 3]
                for a in range(LANES):
                    z[a] += (
                        w0 * e[j, a]
                        + w1 * e[j + 1, a]
                        + w2 * e[j + 2, a]
                        + w3 * e[j + 3, a]
                    )
                j += 4
            while j < i:
                w0 = rows[c, p + j]
                for a in range(LANES):
                    z[a] += w0 * e[j, a]
                j += 1
            p += i + 1
            for a in range(LANES):
                total[a] += z[a] * z[a]
        for a in range(end - first):
            entry = entries[first + a]
            out[entry] = total[a] + addends[entry]
    return out
