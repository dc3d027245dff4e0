"""Gaussian mixtures whose covariances are stored as what they are: few rows.

A `GaussianMixture` holds ``k`` components in ``d`` dimensions. The whitening rows of
all components (see `gladjax.covariance`) lie one after another in one flat array, with
an offset and a rank per component. A component fitted to ``n_k`` samples needs
``min(n_k - 1, d)`` rows, so ``N`` samples need at most ``min(N, k d)`` rows in all: a
bound that is known before the first step, whatever the split of the samples among the
components will be. This is why the array is flat. Buckets of equal rank would waste up
to half of it and change shape whenever a component grows into the next bucket.

The cost of assigning a sample ``x`` to component ``k`` is

    D_k(x) = (x - mu_k)' Sigma_k^-1 (x - mu_k) + log|Sigma_k| - 2 log pi_k    (Eq. 1)

and ``log(pi_k N_k(x)) = -(D_k(x) + d log 2 pi) / 2``.

Notation: ``k`` components, ``d`` features, ``r`` rows in the flat array.

Differs from the reference in
  1. The sign of ``2 log pi_k``, printed as plus in Eqs. 1 and 10 (a misprint: with a
     plus the step would not increase the likelihood).

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1.
"""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from gladjax.covariance import PRECISION
from gladjax.pytree import pytree

if TYPE_CHECKING:
    AnyArray = Any  # On the host or on a device: a type checker need not tell.
else:
    AnyArray = Array | np.ndarray


@pytree
class GaussianMixture:
    """A mixture of Gaussians with structured covariances.

    Attributes:
      log_weights: Logarithms of the weights, minus infinity where a component is dead.
      means: Means, in the coordinates of the features.
      rows: Whitening rows of all components, component after component; unused rows
        are 0.
      variances: Variance along each row.
      offsets: First row of each component.
      ranks: Number of rows of each component; ``d`` means no noise term.
      noise: Variance outside the span of a component's rows.
      log_dets: Log-determinant of each covariance.
    """

    log_weights: Float[AnyArray, " k"]
    means: Float[AnyArray, "k d"]
    rows: Float[AnyArray, "r d"]
    variances: Float[AnyArray, " r"]
    offsets: Int[AnyArray, " k"]
    ranks: Int[AnyArray, " k"]
    noise: Float[AnyArray, " k"]
    log_dets: Float[AnyArray, " k"]


def from_moments(
    weights: Float[AnyArray, " k"],
    means: Float[AnyArray, "k d"],
    covariances: Float[AnyArray, "k d d"],
) -> GaussianMixture:
    """Builds a mixture from dense moments.

    Args:
      weights: Nonnegative, divided by their sum; 0 makes a component dead.
      means: Means.
      covariances: Symmetric and positive definite.

    Returns:
      The mixture, every component with ``d`` rows.

    Raises:
      ValueError: If shapes disagree or, outside of a trace, a weight is negative, all
        are 0, or a covariance is not symmetric and positive definite.
    """
    weights, means = jnp.asarray(weights), jnp.asarray(means)
    covariances = jnp.asarray(covariances)
    k, d = means.shape
    if weights.shape != (k,) or covariances.shape != (k, d, d):
        raise ValueError(
            f"weights {weights.shape}, means {means.shape} and covariances "
            f"{covariances.shape} must be (k,), (k, d) and (k, d, d)"
        )
    values, vectors = jnp.linalg.eigh(covariances)
    if not isinstance(values, Tracer):
        _check_moments(np.asarray(weights), np.asarray(covariances), np.asarray(values))
    rows = jnp.swapaxes(vectors, 1, 2) / jnp.sqrt(values)[:, :, None]
    return GaussianMixture(
        log_weights=jnp.log(weights / jnp.sum(weights)),
        means=means,
        rows=rows.reshape(k * d, d),
        variances=values.reshape(k * d),
        offsets=jnp.arange(k, dtype=jnp.int32) * d,
        ranks=jnp.full((k,), d, jnp.int32),
        noise=values[:, 0],
        log_dets=jnp.sum(jnp.log(values), axis=1),
    )


def _check_moments(
    weights: np.ndarray, covariances: np.ndarray, values: np.ndarray
) -> None:
    if not (np.all(weights >= 0) and weights.sum() > 0):
        raise ValueError("weights must be nonnegative and not all 0")
    scale = np.abs(covariances).max(axis=(1, 2), initial=0.0)
    skew = np.abs(covariances - np.swapaxes(covariances, 1, 2)).max(axis=(1, 2))
    tolerance = 100 * np.finfo(covariances.dtype).eps
    bad = ~(skew <= tolerance * scale) | ~(values[:, 0] > 0)
    if np.any(bad):
        raise ValueError(
            f"covariances[{int(np.argmax(bad))}] is not symmetric and positive definite"
        )


def owners(mixture: GaussianMixture) -> Int[Array, " r"]:
    """Returns the component that owns each row; ``k`` for unused rows."""
    k = mixture.means.shape[0]
    row = jnp.arange(mixture.rows.shape[0], dtype=jnp.int32)
    # Components without rows share an offset with the next one: the last at or before
    # a row owns it, unless the row lies behind that component's rank.
    order = jnp.argsort(jnp.asarray(mixture.offsets), stable=True)
    offsets = jnp.asarray(mixture.offsets)[order]
    ranks = jnp.asarray(mixture.ranks)[order]
    at = jnp.searchsorted(offsets, row, side="right") - 1
    inside = (at >= 0) & (row < offsets[at] + ranks[at])
    return jnp.where(inside, order[at], k).astype(jnp.int32)


def mahalanobis(
    mixture: GaussianMixture, x: Float[AnyArray, " d"]
) -> Float[Array, " k"]:
    """Returns the squared Mahalanobis distance of a sample to every component.

    Args:
      mixture: The mixture.
      x: One sample.

    Returns:
      ``(x - mu_k)' Sigma_k^-1 (x - mu_k)``, also for dead components.
    """
    k, d = mixture.means.shape
    x = jnp.asarray(x)
    means, rows = jnp.asarray(mixture.means), jnp.asarray(mixture.rows)
    owner = owners(mixture)
    e = x[None, :] - means
    y = jnp.sum(rows * e.at[owner].get(mode="fill", fill_value=0), axis=1)
    segment = {"segment_ids": owner, "num_segments": k}
    inside = jax.ops.segment_sum(jnp.square(y), **segment)
    back = jax.ops.segment_sum((y * mixture.variances)[:, None] * rows, **segment)
    outside = jnp.sum(jnp.square(e - back), axis=1) / mixture.noise
    return inside + jnp.where(mixture.ranks < d, outside, 0)


def costs(mixture: GaussianMixture, x: Float[AnyArray, " d"]) -> Float[Array, " k"]:
    """Returns the cost of assigning a sample to every component (Eq. 1).

    Args:
      mixture: The mixture.
      x: One sample.

    Returns:
      ``D_k(x)``, plus infinity where a component is dead.
    """
    constant = jnp.asarray(mixture.log_dets) - 2 * jnp.asarray(mixture.log_weights)
    return mahalanobis(mixture, x) + constant


def log_prob(mixture: GaussianMixture, x: Float[AnyArray, " d"]) -> Float[Array, ""]:
    """Returns the log-density of the mixture at a sample.

    Args:
      mixture: The mixture.
      x: One sample.

    Returns:
      ``log sum_k pi_k N(x; mu_k, Sigma_k)`` in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> normal = from_moments(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
      >>> print(f"{log_prob(normal, jnp.zeros(2)):.4f}")  # -log(2 pi)
      -1.8379
    """
    d = mixture.means.shape[1]
    return jax.nn.logsumexp(-0.5 * (costs(mixture, x) + d * math.log(2 * math.pi)))


def covariances(mixture: GaussianMixture) -> Float[Array, "k d d"]:
    """Returns the dense covariances, for users and tests: ``k d^2`` numbers.

    Args:
      mixture: The mixture.

    Returns:
      The covariance of every component, dead ones included.
    """
    k, d = mixture.means.shape
    rows, variances = jnp.asarray(mixture.rows), jnp.asarray(mixture.variances)
    owner, noise = owners(mixture), jnp.asarray(mixture.noise)
    local = jnp.arange(rows.shape[0], dtype=jnp.int32) - jnp.asarray(
        mixture.offsets
    ).at[owner].get(mode="fill", fill_value=0)
    padded = jnp.zeros((k, d, d), rows.dtype)
    padded = padded.at[owner, local].set(rows, mode="drop")
    spread = jnp.zeros((k, d), rows.dtype).at[owner, local].set(variances, mode="drop")
    complete = jnp.asarray(mixture.ranks) == d

    def dense(rows: Array, spread: Array, noise: Array, complete: Array) -> Array:
        identity = jnp.eye(d, dtype=rows.dtype)
        root = jnp.linalg.inv(jnp.where(complete, rows, identity))
        whole = jnp.matmul(root, root.T, precision=PRECISION)
        excess = jnp.where(spread > 0, spread * (spread - noise), 0)
        spikes = jnp.matmul(rows.T * excess[None, :], rows, precision=PRECISION)
        return jnp.where(complete, whole, noise * identity + spikes)

    return jax.vmap(dense)(padded, spread, noise, complete)


def compact(mixture: GaussianMixture) -> GaussianMixture:
    """Drops dead components and unused rows (on the host: shapes change).

    Args:
      mixture: The mixture, outside of any trace.

    Returns:
      The living components in their order, rows without gaps.
    """
    alive = np.flatnonzero(np.isfinite(np.asarray(mixture.log_weights)))
    offsets, ranks = np.asarray(mixture.offsets), np.asarray(mixture.ranks)
    ranks = ranks[alive].astype(np.int32)
    spans = [np.arange(o, o + r) for o, r in zip(offsets[alive], ranks, strict=True)]
    index = np.concatenate([np.zeros(0, np.int64), *spans]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(ranks)[:-1]])[: len(ranks)]
    return GaussianMixture(
        log_weights=jnp.asarray(np.asarray(mixture.log_weights)[alive]),
        means=jnp.asarray(np.asarray(mixture.means)[alive]),
        rows=jnp.asarray(np.asarray(mixture.rows)[index]),
        variances=jnp.asarray(np.asarray(mixture.variances)[index]),
        offsets=jnp.asarray(starts.astype(np.int32)),
        ranks=jnp.asarray(ranks),
        noise=jnp.asarray(np.asarray(mixture.noise)[alive]),
        log_dets=jnp.asarray(np.asarray(mixture.log_dets)[alive]),
    )


def num_bytes(mixture: GaussianMixture) -> int:
    """Returns the size of the mixture's arrays in bytes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(mixture))
