"""Spikes that hardly rise above the noise, merged into it.

A covariance is a few spikes over noise (`gladjax.covariance`). A spike whose variance
is within a relative ``tolerance`` of the noise says next to nothing: with

    s' = ((d - r) s + sum of the merged v_i) / (d - r + m)

as the new noise, the trace stays, and no squared Mahalanobis distance changes by more
than the tolerance. The mixture gets smaller by the merged rows.

Notation: ``d`` features, ``r`` spikes of variance ``v``, ``m`` of them merged, noise
``s``.

Differs from the reference in
  1. The paper keeps covariances whole.

Reference: there is none.
"""

import jax
import numpy as np

from gladjax import factors, mixture
from gladjax.mixture import GaussianMixture


def merge_spikes(given: GaussianMixture, *, tolerance: float = 1e-3) -> GaussianMixture:
    """Merges negligible spikes into the noise (on the host: shapes change).

    Args:
      given: The mixture, outside of any trace.
      tolerance: Largest relative distance of a merged variance from the noise, 0 or
        more. It bounds the relative change of every squared distance.

    Returns:
      The living components with fewer rows; complete ones (rank ``d``) as they are.

    Raises:
      ValueError: If the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    given = jax.tree.map(np.asarray, mixture.compact(given))
    d = given.means.shape[1]
    noise, log_dets = given.noise.astype(np.float64), given.log_dets.copy()
    scales, ranks = given.scales.copy(), given.ranks.copy()
    rows = []
    for c, (first, rank) in enumerate(zip(given.offsets, given.ranks, strict=True)):
        own = given.rows[first : first + rank]
        if rank == d:
            rows.append(own)
            continue
        B = np.sqrt(float(scales[c])) * own.astype(np.float64)
        spikes, vectors = np.linalg.eigh(B @ B.T)
        spikes = np.maximum(spikes, 0)
        kept = spikes > tolerance * noise[c]
        rest = d - int(kept.sum())
        if rest:  # The trace stays.
            noise[c] += spikes[~kept].sum() / rest
        # What is left of a kept spike above the new noise.
        before = spikes[kept] + float(given.noise[c])
        left = np.maximum(before - noise[c], 0)
        spread = np.sqrt(left / np.where(spikes[kept] > 0, spikes[kept], 1))
        rows.append(((vectors[:, kept].T @ B) * spread[:, None]).astype(own.dtype))
        scales[c], ranks[c] = 1, kept.sum()
        log_dets[c] = np.log(before).sum() + rest * np.log(noise[c])
    smaller = GaussianMixture(
        log_weights=given.log_weights,
        means=given.means,
        rows=np.concatenate(rows),
        inverses=given.inverses[:0],
        offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
        ranks=ranks,
        scales=scales,
        noise=noise.astype(given.noise.dtype),
        log_dets=log_dets,
    )
    return factors.solved(smaller, mixture.num_inverses(smaller))
