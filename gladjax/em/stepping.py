"""One step of EM in JAX: pure, of static shapes."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gladjax import assign, covariance, estimation
from gladjax.covariance import PRECISION, Shrinkage
from gladjax.em.iteration import EMState
from gladjax.iteration import KMLEInfo
from gladjax.mixture import AnyArray, GaussianMixture


def step(
    state: EMState,
    features: Float[AnyArray, "n d"],
    *,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> tuple[EMState, KMLEInfo]:
    """Weighs every sample, then fits every component to all samples.

    Args:
      state: From `init` or the last step.
      features: Samples.
      valid: Samples that count; all by default.
      min_count: Components of a smaller effective count are dropped: their weight is 0
        from now on.
      shrinkage: Shrinkage intensity.

    Returns:
      The next state, of the same shapes, and the log-likelihood before, the components
      after, and the most responsible components.

    Raises:
      ValueError: If the mixture does not have ``k d`` rows.
    """
    features = jnp.asarray(features)
    old = state.mixture
    k, d = old.means.shape
    if old.rows.shape[0] != k * d:
        raise ValueError(
            f"the mixture must have k d = {k * d} rows, not {old.rows.shape[0]}: "
            "begin with em.init or mixture.from_moments"
        )
    dtype = features.dtype
    n = features.shape[0]
    used = jnp.ones((n,), bool) if valid is None else jnp.asarray(valid)
    features = jnp.where(used[:, None], features, 0)
    log_density, labels = _densities(old, features)
    count = jnp.sum(used).astype(dtype)
    middle = jnp.sum(features, axis=0) / count
    centred = jnp.where(used[:, None], features - middle[None, :], 0)
    floor = estimation.FLOOR * jnp.sum(jnp.square(centred)) / (count * d)
    floor = jnp.maximum(floor, 1e6 * jnp.finfo(dtype).tiny)

    def fit(carry: None, index: Array) -> tuple[None, tuple[Array, ...]]:
        log_share = _log_term(old, features, index) - log_density
        share = jnp.where(used, jnp.exp(log_share), 0)[:, None]
        total = jnp.sum(share)
        safe = jnp.maximum(total, jnp.finfo(dtype).tiny)
        e = features - old.means[index][None, :]
        shift = jnp.sum(share * e, axis=0) / safe
        B = jnp.sqrt(share) * (e - shift[None, :])
        scatter = jnp.matmul(B.T, B, precision=PRECISION)
        own = covariance.whitened(scatter, safe, floor, shrinkage=shrinkage)
        mean = old.means[index] + shift
        return carry, (total, mean, own.rows, own.variances, own.noise, own.log_det)

    component = jnp.arange(k, dtype=jnp.int32)
    _, (totals, means, rows, variances, noise, log_dets) = jax.lax.scan(
        fit, None, component
    )
    kept = jnp.where(totals >= min_count, totals, 0)
    fitted = GaussianMixture(
        log_weights=jnp.log(kept / jnp.maximum(jnp.sum(kept), jnp.finfo(dtype).tiny)),
        means=means,
        rows=rows.reshape(k * d, d),
        variances=variances.reshape(k * d),
        offsets=component * d,
        ranks=jnp.full((k,), d, jnp.int32),
        noise=noise,
        log_dets=log_dets,
    )
    info = KMLEInfo(
        log_likelihood=jnp.sum(jnp.where(used, log_density, 0)) / count,
        num_components=jnp.sum(kept > 0),
        labels=jnp.where(used, labels, -1),
    )
    return EMState(fitted, jnp.asarray(state.iteration) + 1), info


def _log_term(mixture: GaussianMixture, features: Array, index: Array) -> Array:
    """Returns ``log(pi_k N_k)`` of every sample, for one component."""
    d = features.shape[1]
    rows = jnp.concatenate([mixture.rows, jnp.zeros((d, d), features.dtype)])
    spread = jnp.concatenate([mixture.variances, jnp.ones((d,), features.dtype)])
    first = jnp.asarray(mixture.offsets)[index]
    one = GaussianMixture(
        log_weights=jnp.zeros((1,), features.dtype),
        means=jnp.asarray(mixture.means)[index][None],
        rows=jax.lax.dynamic_slice_in_dim(rows, first, d),
        variances=jax.lax.dynamic_slice_in_dim(spread, first, d),
        offsets=jnp.zeros((1,), jnp.int32),
        ranks=jnp.asarray(mixture.ranks)[index][None],
        noise=jnp.asarray(mixture.noise)[index][None],
        log_dets=jnp.zeros((1,), features.dtype),
    )
    fixed = jnp.asarray(mixture.log_dets)[index] + d * math.log(2 * math.pi)
    distance = assign.distances(one, features)[:, 0]
    return jnp.asarray(mixture.log_weights)[index] - 0.5 * (distance + fixed)


def _densities(mixture: GaussianMixture, features: Array) -> tuple[Array, Array]:
    """Returns the log-density of every sample and its most responsible component."""
    n = features.shape[0]

    def add(
        carry: tuple[Array, Array, Array], index: Array
    ) -> tuple[tuple[Array, Array, Array], None]:
        total, best, labels = carry
        term = _log_term(mixture, features, index)
        labels = jnp.where(term > best, index, labels)
        return (jnp.logaddexp(total, term), jnp.maximum(best, term), labels), None

    nothing = jnp.full((n,), -jnp.inf, features.dtype)
    begin = (nothing, nothing, jnp.zeros((n,), jnp.int32))
    component = jnp.arange(mixture.means.shape[0], dtype=jnp.int32)
    (total, _, labels), _ = jax.lax.scan(add, begin, component)
    return total, labels
