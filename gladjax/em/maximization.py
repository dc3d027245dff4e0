"""The M-step on the host: components of weighted samples, one by one."""

import numpy as np
from jaxtyping import Float

from gladjax import covariance, estimation, parts, routing
from gladjax.covariance import Shrinkage
from gladjax.em.expectation import Responsibilities
from gladjax.mixture import GaussianMixture
from gladjax.parts import Part


def maximize(
    features: Float[np.ndarray, "n d"],
    found: Responsibilities,
    num_components: int,
    *,
    floor: float,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> GaussianMixture:
    """Fits every component to the samples, weighted by their responsibilities.

    Args:
      features: Samples; a memory-mapped array is read row by row.
      found: Responsibilities.
      num_components: Number of components ``k``.
      floor: Variance that stands in for 0, see `estimation.floor_variance`.
      min_count: Components of a smaller effective count are dropped.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture, NumPy arrays; dropped components have weight 0. Components of at most
      ``d`` samples have spikes, the others ``d`` rows.
    """
    d = features.shape[1]
    dtype = np.dtype(features.dtype)
    order, starts = routing.group(found.component, num_components)
    sizes = np.diff(starts)
    share = found.share.astype(np.float64)
    counts = np.bincount(found.component, share, minlength=num_components)
    least = np.asarray(floor, dtype)

    def fit(component: int) -> Part:
        pairs = order[starts[component] : starts[component + 1]]
        index, weights = found.owner[pairs], found.share[pairs]
        if len(index) > d:
            mean, scatter = _moments(features, index, weights)
            count = np.asarray(counts[component], dtype)
            return parts.part(mean, parts.many(scatter, count, least, shrinkage))
        size = next(size for size in estimation.ladder(d) if size >= len(index))
        samples, padded = np.zeros((size, d), dtype), np.zeros(size, dtype)
        samples[: len(index)], padded[: len(index)] = features[index], weights
        return parts.part(
            *parts.few(samples, np.int32(len(index)), least, shrinkage, padded)
        )

    alive = counts >= min_count
    work = np.flatnonzero(alive)
    work = work[np.argsort(-sizes[work], kind="stable")].tolist()
    living = parts.in_threads(fit, work)
    return parts.assemble(living, np.where(alive, counts, 0), d, dtype)


def _moments(
    features: np.ndarray, index: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and scatter of many weighted samples, read in chunks."""
    d = features.shape[1]
    size = estimation.CHUNK
    chunks = [slice(i, i + size) for i in range(0, len(index), size)]
    # Seen from the sample that counts most, copies are exactly 0.
    origin = np.asarray(features[index[np.argmax(weights)]])
    total = np.zeros(d)
    for chunk in chunks:
        e = np.asarray(features[index[chunk]]) - origin
        total += weights[chunk].astype(np.float64) @ e
    shift = (total / weights.sum(dtype=np.float64)).astype(origin.dtype)
    scatter = np.zeros((d, d), origin.dtype)
    for chunk in chunks:
        e = np.asarray(features[index[chunk]]) - origin - shift
        B = np.sqrt(weights[chunk])[:, None] * e
        scatter += B.T @ B
    return origin + shift, scatter
