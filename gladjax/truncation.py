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
import jax.numpy as jnp
import numpy as np

from gladjax import mixture
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
    noise = given.noise.astype(np.float64)
    log_dets, ranks = given.log_dets.copy(), given.ranks.copy()
    keep = np.ones(len(given.rows), bool)
    for c, (first, rank) in enumerate(zip(given.offsets, given.ranks, strict=True)):
        if rank == d:
            continue
        own = slice(first, first + rank)
        variances = given.variances[own].astype(np.float64)
        merged = variances <= (1 + tolerance) * noise[c]
        if not merged.any():
            continue
        rest = d - rank
        joined = rest * noise[c] + variances[merged].sum()
        noise[c] = joined / (rest + merged.sum())
        keep[own] = ~merged
        ranks[c] = rank - merged.sum()
        left = np.log(variances[~merged]).sum()
        log_dets[c] = left + (d - ranks[c]) * np.log(noise[c])
    return GaussianMixture(
        log_weights=jnp.asarray(given.log_weights),
        means=jnp.asarray(given.means),
        rows=jnp.asarray(given.rows[keep]),
        variances=jnp.asarray(given.variances[keep]),
        offsets=jnp.asarray((np.cumsum(ranks) - ranks).astype(np.int32)),
        ranks=jnp.asarray(ranks),
        noise=jnp.asarray(noise.astype(given.noise.dtype)),
        log_dets=jnp.asarray(log_dets),
    )
