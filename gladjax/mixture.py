"""Gaussian mixtures whose covariances are stored as what they are: few rows.

A `GaussianMixture` holds ``k`` components in ``d`` dimensions. A component of few
samples is ``Sigma_k = s_k I + a_k B_k'B_k`` with its centred samples as the rows of
``B_k`` (see `gladjax.covariance`); one of more than ``d`` samples has ``d`` rows that
whiten it. The rows of all components lie one after another in one flat array, with an
offset and a rank per component, and so do the matrices ``H_k``. A component fitted to
``n_k`` samples needs ``min(n_k, d)`` rows, so ``N`` samples need ``min(N, k d)`` rows
at most: a bound that is known before the first step, whatever the split of the
samples among the components will be. This is why the array is flat. Buckets of equal
rank would waste up to half of it and change shape whenever a component grows into the
next bucket.

The cost of assigning a sample ``x`` to component ``k`` is

    D_k(x) = (x - mu_k)' Sigma_k^-1 (x - mu_k) + log|Sigma_k| - 2 log pi_k    (Eq. 1)

and ``log(pi_k N_k(x)) = -(D_k(x) + d log 2 pi) / 2``.

Notation: ``k`` components, ``d`` features, ``r`` rows and ``q`` numbers in the flat
arrays.

Differs from the reference in
  1. The sign of ``2 log pi_k``, printed as plus in Eqs. 1 and 10 (a misprint: with a
     plus the step would not increase the likelihood).

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1.
"""

import dataclasses
import math
from collections.abc import Sequence
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

SMALL = 1 << 8  # The least size of a flat array.
LARGE = 1 << 20  # Up to here a flat array has the size of a power of two.
SPARE = 1 << 22  # Numbers that a flat array has room for, needed or not.


@pytree
class GaussianMixture:
    """A mixture of Gaussians with structured covariances.

    Attributes:
      log_weights: Logarithms of the weights, minus infinity where a component is dead.
      means: Means, in the coordinates of the features.
      rows: Rows of all components, component after component in their order; unused
        rows are 0.
      inverses: Matrices ``H_k`` (rank x rank) of the components of rank below ``d``,
        component after component in their order.
      offsets: First row of each component.
      ranks: Number of rows of each component; ``d`` means that the rows whiten it, and
        are lower triangular.
      scales: Weight ``a_k`` of the scatter of the rows; where they whiten, the mean
        variance.
      noise: Variance ``s_k`` of every direction.
      log_dets: Log-determinant of each covariance.
    """

    log_weights: Float[AnyArray, " k"]
    means: Float[AnyArray, "k d"]
    rows: Float[AnyArray, "r d"]
    inverses: Float[AnyArray, " q"]
    offsets: Int[AnyArray, " k"]
    ranks: Int[AnyArray, " k"]
    scales: Float[AnyArray, " k"]
    noise: Float[AnyArray, " k"]
    log_dets: Float[AnyArray, " k"]


def blank(
    num_components: int, dimension: int, rows: int, entries: int, dtype: np.dtype
) -> GaussianMixture:
    """Returns a mixture of dead components, for its arrays.

    Args:
      num_components: Number of components.
      dimension: Number of features.
      rows: Room for rows.
      entries: Room for numbers of the inverses.
      dtype: Of all numbers but offsets and ranks.
    """
    k, d = num_components, dimension

    def each(value: float) -> Array:
        return jnp.asarray(np.full(k, value, dtype))

    return GaussianMixture(
        log_weights=each(-np.inf),
        means=jnp.asarray(np.zeros((k, d), dtype)),
        rows=jnp.asarray(np.zeros((rows, d), dtype)),
        inverses=jnp.asarray(np.zeros(entries, dtype)),
        offsets=jnp.asarray(np.zeros(k, np.int32)),
        ranks=jnp.asarray(np.zeros(k, np.int32)),
        scales=each(0.0),
        noise=each(1.0),
        log_dets=each(0.0),
    )


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
    if not isinstance(covariances, Tracer):
        _check_moments(np.asarray(weights), np.asarray(covariances))
    lower = jnp.linalg.cholesky(covariances)
    identity = jnp.broadcast_to(jnp.eye(d, dtype=lower.dtype), (k, d, d))
    rows = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)
    diagonal = jnp.diagonal(lower, axis1=1, axis2=2)
    return GaussianMixture(
        log_weights=jnp.log(weights / jnp.sum(weights)),
        means=means,
        rows=rows.reshape(k * d, d),
        inverses=jnp.zeros((0,), means.dtype),
        offsets=jnp.arange(k, dtype=jnp.int32) * d,
        ranks=jnp.full((k,), d, jnp.int32),
        scales=jnp.trace(covariances, axis1=1, axis2=2) / d,
        noise=jnp.min(jnp.square(diagonal), axis=1),
        log_dets=2 * jnp.sum(jnp.log(diagonal), axis=1),
    )


def _check_moments(weights: np.ndarray, covariances: np.ndarray) -> None:
    if not (np.all(weights >= 0) and weights.sum() > 0):
        raise ValueError("weights must be nonnegative and not all 0")
    scale = np.abs(covariances).max(axis=(1, 2), initial=0.0)
    skew = np.abs(covariances - np.swapaxes(covariances, 1, 2)).max(axis=(1, 2))
    tolerance = 100 * np.finfo(covariances.dtype).eps
    finite = np.isfinite(covariances).all(axis=(1, 2), keepdims=True)
    values = np.linalg.eigvalsh(np.where(finite, covariances, 0))
    bad = ~(skew <= tolerance * scale) | ~(values[:, 0] > 0)
    if np.any(bad):
        raise ValueError(
            f"covariances[{int(np.argmax(bad))}] is not symmetric and positive definite"
        )


def inverse_offsets(mixture: GaussianMixture) -> Int[Array, " k"]:
    """Returns where the matrix ``H_k`` of each component begins in the flat array."""
    ranks = jnp.asarray(mixture.ranks)
    sizes = jnp.where(ranks < mixture.means.shape[1], jnp.square(ranks), 0)
    return (jnp.cumsum(sizes) - sizes).astype(jnp.int32)


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


def num_inverses(mixture: GaussianMixture) -> int:
    """Returns the size that the flat array of inverses must have (on the host)."""
    ranks = np.asarray(mixture.ranks).astype(np.int64)
    return int(np.sum(np.where(ranks < mixture.means.shape[1], ranks**2, 0)))


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
    inverses, offsets = jnp.asarray(mixture.inverses), jnp.asarray(mixture.offsets)
    ranks = jnp.asarray(mixture.ranks)
    owner = owners(mixture)
    e = x[None, :] - means
    t = jnp.sum(rows * e.at[owner].get(mode="fill", fill_value=0), axis=1)
    segment = {"segment_ids": owner, "num_segments": k}
    whole = jax.ops.segment_sum(jnp.square(t), **segment)
    # v = H t, entry by entry of the flat array of all H.
    begins = inverse_offsets(mixture)
    entry = jnp.arange(inverses.shape[0], dtype=jnp.int32)
    sizes = jnp.where(ranks < d, jnp.square(ranks), 0)
    mine = jnp.searchsorted(begins + sizes, entry, side="right").astype(jnp.int32)
    local = entry - begins.at[mine].get(mode="fill", fill_value=0)
    rank = jnp.maximum(ranks.at[mine].get(mode="fill", fill_value=1), 1)
    first = offsets.at[mine].get(mode="fill", fill_value=rows.shape[0])
    terms = inverses * t.at[first + local % rank].get(mode="fill", fill_value=0)
    v = jnp.zeros_like(t).at[first + local // rank].add(terms, mode="drop")
    back = jax.ops.segment_sum(v[:, None] * rows, **segment)
    scales = jnp.asarray(mixture.scales)
    inside = scales * jax.ops.segment_sum(jnp.square(v), **segment)
    outside = jnp.sum(jnp.square(e - scales[:, None] * back), axis=1) / mixture.noise
    return jnp.where(ranks < d, outside + inside, whole)


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
    rows, offsets = jnp.asarray(mixture.rows), jnp.asarray(mixture.offsets)
    owner, noise = owners(mixture), jnp.asarray(mixture.noise)
    local = jnp.arange(rows.shape[0], dtype=jnp.int32)
    local = local - offsets.at[owner].get(mode="fill", fill_value=0)
    padded = jnp.zeros((k, d, d), rows.dtype)
    padded = padded.at[owner, local].set(rows, mode="drop")
    complete = jnp.asarray(mixture.ranks) == d

    def dense(rows: Array, scale: Array, noise: Array, complete: Array) -> Array:
        identity = jnp.eye(d, dtype=rows.dtype)
        root = jnp.linalg.inv(jnp.where(complete, rows, identity))
        whole = jnp.matmul(root, root.T, precision=PRECISION)
        scatter = jnp.matmul(rows.T, rows, precision=PRECISION)
        return jnp.where(complete, whole, noise * identity + scale * scatter)

    return jax.vmap(dense)(padded, jnp.asarray(mixture.scales), noise, complete)


def compact(mixture: GaussianMixture) -> GaussianMixture:
    """Drops dead components and unused rows (on the host: shapes change).

    Args:
      mixture: The mixture, outside of any trace.

    Returns:
      The living components in their order, rows without gaps.
    """
    alive = np.flatnonzero(np.isfinite(np.asarray(mixture.log_weights)))
    return jax.tree.map(jnp.asarray, chosen(mixture, alive))


def chosen(
    mixture: GaussianMixture, components: Int[np.ndarray, " j"]
) -> GaussianMixture:
    """Returns some components in a given order, rows without gaps (NumPy arrays).

    Args:
      mixture: The mixture, outside of any trace.
      components: Which ones.
    """
    begins = np.asarray(inverse_offsets(mixture))[components]
    mixture = jax.tree.map(np.asarray, mixture)
    d = mixture.means.shape[1]
    ranks = mixture.ranks[components].astype(np.int32)
    sizes = np.where(ranks < d, ranks.astype(np.int64) ** 2, 0)
    return GaussianMixture(
        log_weights=mixture.log_weights[components],
        means=mixture.means[components],
        rows=mixture.rows[_spans(mixture.offsets[components], ranks)],
        inverses=mixture.inverses[_spans(begins, sizes)],
        offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
        ranks=ranks,
        scales=mixture.scales[components],
        noise=mixture.noise[components],
        log_dets=mixture.log_dets[components],
    )


def completed(mixture: GaussianMixture) -> GaussianMixture:
    """Gives components of more than ``d / 2`` rows all ``d`` (NumPy arrays).

    The distance of few rows takes three products of matrices (`gladjax.covariance`),
    that of ``d`` whitening rows one: from ``(sqrt(2) - 1) d`` rows on it is the cheaper
    one, for more memory. The whitening rows are computed in float64.

    Args:
      mixture: The mixture, outside of any trace.

    Returns:
      The same densities, but for rounding.
    """
    given = chosen(mixture, np.arange(len(mixture.means)))
    d = given.means.shape[1]
    ranks = np.where(2 * given.ranks > d, d, given.ranks).astype(np.int32)
    offsets = (np.cumsum(ranks) - ranks).astype(np.int32)
    rows = np.zeros((int(ranks.sum()), d), given.rows.dtype)
    scales, kept = given.scales.copy(), []
    begins = np.asarray(inverse_offsets(given))
    for k, (rank, first) in enumerate(zip(given.ranks, given.offsets, strict=True)):
        own = given.rows[first : first + rank]
        if rank == ranks[k]:
            kept.append(given.inverses[begins[k] : begins[k] + rank**2 * (rank < d)])
        else:
            B = own.astype(np.float64)
            sigma = float(scales[k]) * B.T @ B + float(given.noise[k]) * np.eye(d)
            own = np.tril(np.linalg.inv(np.linalg.cholesky(sigma)))
            scales[k] = np.trace(sigma) / d
        rows[offsets[k] : offsets[k] + ranks[k]] = own
    inverses = np.concatenate([given.inverses[:0], *kept])
    return dataclasses.replace(
        given,
        rows=rows,
        inverses=inverses,
        offsets=offsets,
        ranks=ranks,
        scales=scales,
    )


def room(needed: int) -> int:
    """Returns a size that is enough, one of few: a power of two where it is small.

    Args:
      needed: A size.
    """
    step = max(SMALL, 1 << max(needed - 1, 0).bit_length())
    step = step if step <= LARGE else step >> 3
    return -(-needed // step) * step


def padded(mixture: GaussianMixture, rows: int, inverses: int) -> GaussianMixture:
    """Pads the flat arrays (NumPy arrays).

    Args:
      mixture: The mixture, outside of any trace.
      rows: Rows to have room for.
      inverses: Numbers of inverses to have room for.
    """
    owned, numbers = np.asarray(mixture.rows), np.asarray(mixture.inverses)
    return dataclasses.replace(
        mixture,
        rows=np.pad(owned, ((0, rows - len(owned)), (0, 0))),
        inverses=np.pad(numbers, (0, inverses - len(numbers))),
    )


def roomy(
    mixture: GaussianMixture, *, inverses: int = 0, together: int = 1
) -> GaussianMixture:
    """Pads the flat arrays to one of few sizes (NumPy arrays).

    Mixtures of as many components then share their compiled programs: arrays have room
    for all that there may be, where that is small, or else sizes that `room` gives.

    Args:
      mixture: The mixture, outside of any trace.
      inverses: Numbers of inverses to have room for, if they are more than its own.
      together: The number of components becomes a multiple of it, by dead ones.
    """

    def size(needed: int, most: int, width: int) -> int:
        return max(needed, most) if most * width <= SPARE else room(needed)

    k, d = mixture.means.shape
    rows = size(len(mixture.rows), k * d, d)
    inverses = size(max(inverses, len(mixture.inverses)), k * (d - 1) ** 2, 1)
    found = padded(mixture, rows, inverses)
    return extended(found, len(found.means) + -len(found.means) % together)


def extended(mixture: GaussianMixture, num_components: int) -> GaussianMixture:
    """Appends dead components (NumPy arrays).

    Args:
      mixture: The mixture, outside of any trace.
      num_components: How many there are then.
    """
    missing = num_components - len(mixture.means)
    if not missing:
        return mixture
    dead = blank(missing, mixture.means.shape[1], 0, 0, mixture.means.dtype)
    end = np.max(np.asarray(mixture.offsets) + np.asarray(mixture.ranks))
    dead = dataclasses.replace(dead, offsets=np.full(missing, end, np.int32))
    names = ("log_weights", "means", "offsets", "ranks", "scales", "noise", "log_dets")
    more = {
        name: np.concatenate([getattr(mixture, name), getattr(dead, name)])
        for name in names
    }
    return dataclasses.replace(mixture, **more)


def first(mixture: GaussianMixture, count: int) -> GaussianMixture:
    """Returns the first components, without unused rows (NumPy arrays)."""
    return chosen(mixture, np.arange(count))


def join(parts: Sequence[GaussianMixture]) -> GaussianMixture:
    """Returns the components of several mixtures as one (NumPy arrays).

    Args:
      parts: Mixtures without unused rows; their weights are taken as they are.
    """
    ranks = np.concatenate([np.asarray(part.ranks) for part in parts])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(part, name)) for part in parts])

    return GaussianMixture(
        log_weights=joined("log_weights"),
        means=joined("means"),
        rows=joined("rows"),
        inverses=joined("inverses"),
        offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
        ranks=ranks.astype(np.int32),
        scales=joined("scales"),
        noise=joined("noise"),
        log_dets=joined("log_dets"),
    )


def rescaled(mixture: GaussianMixture, exponent: int) -> GaussianMixture:
    """Returns the mixture of the samples multiplied by a power of two.

    Args:
      mixture: The mixture.
      exponent: Binary logarithm of the factor.
    """
    d = mixture.means.shape[1]
    ranks = jnp.asarray(mixture.ranks)
    owner = owners(mixture)
    few = ranks.at[owner].get(mode="fill", fill_value=0) < d
    powers = jnp.where(few, exponent, -exponent)
    scales = jnp.asarray(mixture.scales)
    return GaussianMixture(
        log_weights=mixture.log_weights,
        means=jnp.ldexp(jnp.asarray(mixture.means), exponent),
        rows=jnp.ldexp(jnp.asarray(mixture.rows), powers[:, None]),
        inverses=jnp.ldexp(jnp.asarray(mixture.inverses), -2 * exponent),
        offsets=mixture.offsets,
        ranks=mixture.ranks,
        scales=jnp.where(ranks < d, scales, jnp.ldexp(scales, 2 * exponent)),
        noise=jnp.ldexp(jnp.asarray(mixture.noise), 2 * exponent),
        log_dets=mixture.log_dets + 2 * d * exponent * math.log(2),
    )


def _spans(firsts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the numbers from each first one on, one span after the other."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(firsts - (ends - lengths), lengths)


def num_bytes(mixture: GaussianMixture) -> int:
    """Returns the size of the mixture's arrays in bytes, without what is unused."""
    size = np.dtype(mixture.means.dtype).itemsize
    rows = len(mixture.rows) - int(np.asarray(mixture.ranks).sum())
    unused = rows * mixture.means.shape[1]
    unused += len(mixture.inverses) - num_inverses(mixture)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(mixture)) - unused * size
