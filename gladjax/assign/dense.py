"""Every cost of every component, in JAX: for traces, accelerators and comparison."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture


def dense(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    limit: Float[Array, " n"] | None = None,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Returns labels and costs by computing every cost, component after component.

    Args:
      mixture: The mixture.
      features: Samples.
      limit: Costs below which a component must be to be of interest; none by default.

    Returns:
      The labels, the first of equals, and the costs; memory is ``O(n d)``. Label -1 and
      the limit itself where no cost is below it; without a limit label 0.
    """
    features = jnp.asarray(features)
    n = features.shape[0]

    def visit(best: tuple[Array, Array], index: Array, distance: Array) -> _Best:
        cost = distance + fixed[index]
        labels, least = best
        better = cost < least
        labels = jnp.where(better, index, labels)
        return labels, jnp.where(better, cost, least)

    fixed = jnp.asarray(mixture.log_dets) - 2 * jnp.asarray(mixture.log_weights)
    if limit is None:
        first = (jnp.zeros((n,), jnp.int32), jnp.full((n,), jnp.inf, fixed.dtype))
    else:
        first = (jnp.full((n,), -1, jnp.int32), limit)
    step = _scan(mixture, features)
    (labels, cost), _ = jax.lax.scan(
        lambda best, part: (visit(best, part[0], step(part)), None),
        first,
        _components(mixture),
    )
    return labels, cost


def distances(
    mixture: GaussianMixture, features: Float[AnyArray, "n d"]
) -> Float[Array, "n k"]:
    """Returns the squared Mahalanobis distances of samples to all components.

    Args:
      mixture: The mixture.
      features: Samples.

    Returns:
      All distances, computed component after component.
    """
    step = _scan(mixture, jnp.asarray(features))
    parts = _components(mixture)
    return jax.lax.scan(lambda c, part: (c, step(part)), None, parts)[1].T


_Best = tuple[Array, Array]


def _components(mixture: GaussianMixture) -> tuple[Array, ...]:
    k = mixture.means.shape[0]
    fields = (mixture.means, mixture.offsets, mixture.ranks, mixture.noise)
    return (jnp.arange(k, dtype=jnp.int32), *(jnp.asarray(f) for f in fields))


def _scan(
    mixture: GaussianMixture, features: Array
) -> Callable[[tuple[Array, ...]], Array]:
    """Returns a function from one of `_components` to the samples' distances."""
    d = features.shape[1]
    rows, variances = jnp.asarray(mixture.rows), jnp.asarray(mixture.variances)
    padded = jnp.concatenate([rows, jnp.zeros((d, d), rows.dtype)])
    spread = jnp.concatenate([variances, jnp.ones((d,), variances.dtype)])

    def distance(part: tuple[Array, ...]) -> Array:
        _, mean, offset, rank, noise = part
        e = features - mean[None, :]
        used = jnp.arange(d, dtype=jnp.int32) < rank
        own = jax.lax.dynamic_slice_in_dim(padded, offset, d)
        own = jnp.where(used[:, None], own, 0)
        variance = jax.lax.dynamic_slice_in_dim(spread, offset, d)
        y = jnp.matmul(e, own.T, precision=PRECISION)
        back = jnp.matmul(y * variance[None, :], own, precision=PRECISION)
        outside = jnp.sum(jnp.square(e - back), axis=1) / noise
        return jnp.sum(jnp.square(y), axis=1) + jnp.where(rank < d, outside, 0)

    return distance
