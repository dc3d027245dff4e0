"""Count, mean and a root of the scatter of weighted samples, in NumPy."""

import math
from collections.abc import Sequence

import numpy as np

from gladjax import estimation
from gladjax.mixture import AnyArray

CHUNK = 4096  # Samples of one component that are read at once.
Moments = tuple[float, np.ndarray, np.ndarray]  # Count, mean, root of the scatter.


def moments(features: AnyArray, index: np.ndarray, weights: np.ndarray) -> Moments:
    """Returns the moments of some samples, read in chunks."""
    d, dtype = features.shape[1], features.dtype
    found: Moments = (0.0, np.zeros(d), np.zeros((0, d), dtype))
    for first in range(0, len(index), CHUNK):
        rows = index[first : first + CHUNK]
        rows = rows[weights[rows] > 0]
        if len(rows):
            x = np.asarray(features[rows], np.float64)
            found = joined(found, _few_moments(x, weights[rows], dtype))
    return found


def _few_moments(x: np.ndarray, w: np.ndarray, dtype: np.dtype) -> Moments:
    """Returns the moments of samples by their differences from the mean so far."""
    e = x - x[0]  # Seen from one of them, copies are exactly 0.
    total = np.cumsum(w)
    mean = np.cumsum(w[:, None] * e, axis=0) / total[:, None]
    scale = np.sqrt(w[1:] * total[:-1] / total[1:])
    root = scale[:, None] * (e[1:] - mean[:-1])
    return float(total[-1]), x[0] + mean[-1], _compressed(root.astype(dtype))


def joined(old: Moments, new: Moments) -> Moments:
    """Returns the moments of the union."""
    if not new[0] or not old[0]:
        return new if new[0] else old
    total = old[0] + new[0]
    apart = new[1] - old[1]
    between = math.sqrt(old[0] * new[0] / total) * apart
    root = np.vstack([old[2], new[2], between[None].astype(old[2].dtype)])
    return total, old[1] + new[0] / total * apart, _compressed(root)


def _compressed(root: np.ndarray) -> np.ndarray:
    """Returns a root of the same scatter with no more rows than columns."""
    root = root[np.any(root != 0, axis=1)]
    d = root.shape[1]
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > d else root


def scaled(moments: Sequence[Moments], factor: float) -> list[Moments]:
    """Returns moments of the same samples with other weights."""
    if factor == 1:
        return list(moments)
    if factor == 0:
        return [(0.0, 0 * mean, root[:0]) for _, mean, root in moments]
    change = np.sqrt(factor)
    return [
        (factor * n, mean, root * root.dtype.type(change)) for n, mean, root in moments
    ]


def floor(moments: Sequence[Moments]) -> float:
    """Returns the variance that stands in for 0, as `estimation.floor_of`."""
    total = sum(n for n, _, _ in moments) or 1.0
    means = np.stack([mean for _, mean, _ in moments])
    counts = np.array([n for n, _, _ in moments])
    middle = counts @ means / total
    scatter = counts @ np.square(means - middle)
    for _, _, root in moments:
        scatter = scatter + np.square(root.astype(np.float64)).sum(axis=0)
    tiny = np.finfo(moments[0][2].dtype).tiny
    return float(max(estimation.FLOOR * scatter.mean() / total, 1e6 * tiny))
