"""The E-step on the host: responsibilities that matter, as a list of pairs."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gladjax import assign
from gladjax.mixture import GaussianMixture

# Costs (twice the nats) above the least one at which a responsibility counts as 0.
RANGE = {np.dtype(np.float32): 60.0, np.dtype(np.float64): 100.0}


class Responsibilities(NamedTuple):
    """Which components may have made which samples.

    Attributes:
      owner: Sample of each pair, rising.
      component: Component of each pair, rising within a sample.
      share: Responsibility of the component for the sample; those of a sample add up
        to 1.
      labels: The most responsible component of each sample, -1 where not valid.
      log_likelihood: Mean over samples of the log-density, in nats.
      survivors: Components per sample left by the first bound.
      evaluated: Full costs per sample.
    """

    owner: Int[np.ndarray, " p"]
    component: Int[np.ndarray, " p"]
    share: Float[np.ndarray, " p"]
    labels: Int[np.ndarray, " n"]
    log_likelihood: float
    survivors: float
    evaluated: float


def expect(
    mixture: GaussianMixture,
    features: Float[np.ndarray, "n d"],
    index: Int[np.ndarray, " m"],
    *,
    basis: Float[np.ndarray, "d d"] | None = None,
    start: Int[np.ndarray, " n"] | None = None,
) -> Responsibilities:
    """Finds the responsibilities of a mixture, in chunks of samples.

    Args:
      mixture: The mixture, NumPy arrays.
      features: Samples; a memory-mapped array is read in chunks.
      index: Samples that count, rising.
      basis: Directions in which components are ruled out; the samples' principal axes
        by default.
      start: A guess of the most responsible components; it changes the time only.

    Returns:
      The pairs, without those below `RANGE`.
    """
    basis = assign.principal_axes(features[index]) if basis is None else basis
    marginals = assign.bounds(mixture, basis)
    n, d = features.shape
    dtype = mixture.means.dtype
    reach = np.asarray(RANGE[dtype], dtype)
    labels = np.full(n, -1, np.int32)
    owners, components, shares = [], [], []
    total, survivors, evaluated = 0.0, 0.0, 0.0
    for first in range(0, len(index), assign.CHUNK):
        rows = index[first : first + assign.CHUNK]
        x = np.asarray(features[rows])
        guess = None if start is None else start[rows]
        label, least, info = assign.nearest_info(
            mixture, x, start=guess, marginals=marginals
        )
        y = assign.project(marginals, x)
        owner, component, _, left = assign.candidates(marginals, y, least + reach)
        cost = assign.pair_costs(mixture, x, owner, component)
        above = cost - least[owner]
        near = above <= reach
        owner, component = owner[near], component[near]
        terms = np.exp(-0.5 * above[near].astype(np.float64))
        sums = np.bincount(owner, terms, minlength=len(rows))
        total += float(np.log(sums).sum() - 0.5 * least.sum(dtype=np.float64))
        labels[rows] = label
        owners.append(rows[owner].astype(np.int32))
        components.append(component.astype(np.int32))
        shares.append((terms / sums[owner]).astype(dtype))
        survivors += left + float(info.survivors) * len(rows)
        evaluated += len(cost) + float(info.evaluated) * len(rows)
    count = max(len(index), 1)
    return Responsibilities(
        owner=np.concatenate([np.zeros(0, np.int32), *owners]),
        component=np.concatenate([np.zeros(0, np.int32), *components]),
        share=np.concatenate([np.zeros(0, dtype), *shares]),
        labels=labels,
        log_likelihood=total / count - 0.5 * d * math.log(2 * math.pi),
        survivors=survivors / count,
        evaluated=evaluated / count,
    )
