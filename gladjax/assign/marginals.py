"""Whitened marginals of all components in JAX: lower bounds inside of a trace.

The twin of `gladjax.assign.bounds` for accelerators, in the precision of the mixture.
What float32 loses in forming and factoring the marginal ``M_k = P' Sigma_k P`` is
measured and given up: with rows ``W`` that should whiten it, ``W M W'`` is formed, and
the rows are divided by ``sqrt(1 + delta)``, where ``delta`` covers the distance of
``W M W'`` from the identity and the rounding of both products. Then
``|W P'e|^2 <= e' Sigma^-1 e`` holds. Where the factorisation fails ``W`` is 0, a bound
that never prunes.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``r`` leading coordinates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax import routing
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture, owners

ROUNDING = 8  # Units of rounding by which products are trusted.
SIZE = 32  # Rows in a block.


class Marginals(NamedTuple):
    """Whitened marginals of all components.

    Attributes:
      basis: Directions of the leading coordinates.
      centre: Point that is taken from samples before they are rotated.
      means: Means in these coordinates.
      factors: Lower-triangular whitening rows; the first ``j`` rows and columns whiten
        the first ``j`` coordinates.
      lengths: Distance of each mean from the centre.
      constants: ``log|Sigma_k| - 2 log pi_k``, infinite for dead components.
    """

    basis: Float[Array, "d r"]
    centre: Float[Array, " d"]
    means: Float[Array, "k r"]
    factors: Float[Array, "k r r"]
    lengths: Float[Array, " k"]
    constants: Float[Array, " k"]


def axes(features: Float[AnyArray, "n d"], *, limit: int = 4096) -> Float[Array, "d d"]:
    """Returns the directions of largest variance of a regular subsample.

    Args:
      features: Samples.
      limit: Samples to look at, about.

    Returns:
      Orthonormal columns, in falling order of variance. Samples that are not finite
      count as the origin.
    """
    features = jnp.asarray(features)
    sample = features[:: max(1, features.shape[0] // limit)]
    sample = jnp.where(jnp.all(jnp.isfinite(sample), axis=1)[:, None], sample, 0)
    centred = sample - jnp.mean(sample, axis=0)[None, :]
    scatter = jnp.matmul(centred.T, centred, precision=PRECISION)
    vectors = jnp.linalg.eigh(scatter)[1][:, ::-1]
    identity = jnp.eye(vectors.shape[0], dtype=vectors.dtype)
    return jnp.where(jnp.all(jnp.isfinite(vectors)), vectors, identity)


def marginals(mixture: GaussianMixture, basis: Float[AnyArray, "d r"]) -> Marginals:
    """Prepares the marginals of a mixture.

    Args:
      mixture: The mixture.
      basis: Directions of the leading coordinates, orthonormal columns.

    Returns:
      The marginals, lowered by more than their rounding.
    """
    means, basis = jnp.asarray(mixture.means), jnp.asarray(basis)
    centre = jnp.mean(means, axis=0)
    centred = means - centre[None, :]
    M = _marginal_covariances(mixture, basis)
    r = basis.shape[1]
    identity = jnp.eye(r, dtype=means.dtype)
    lower = jnp.linalg.cholesky(M)
    inverse = jax.vmap(
        lambda one: jax.scipy.linalg.solve_triangular(one, identity, lower=True)
    )(lower)
    left = jnp.matmul(inverse, M, precision=PRECISION)
    whole = jnp.matmul(left, jnp.swapaxes(inverse, 1, 2), precision=PRECISION)
    norms = [_norm(a) for a in (whole - identity[None], inverse, M)]
    eps = float(jnp.finfo(means.dtype).eps)
    delta = norms[0] + ROUNDING * eps * norms[1] ** 2 * norms[2]
    scale = 1 / jnp.sqrt(1 + delta)
    factors = jnp.tril(inverse) * scale[:, None, None]
    sound = jnp.all(jnp.isfinite(factors), axis=(1, 2))
    constants = jnp.asarray(mixture.log_dets) - 2 * jnp.asarray(mixture.log_weights)
    return Marginals(
        basis=basis,
        centre=centre,
        means=jnp.matmul(centred, basis, precision=PRECISION),
        factors=jnp.where(sound[:, None, None], factors, 0),
        lengths=jnp.linalg.norm(centred, axis=1),
        constants=constants,
    )


def _norm(matrices: Float[Array, "k r r"]) -> Float[Array, " k"]:
    return jnp.sqrt(jnp.sum(jnp.square(matrices), axis=(1, 2)))


def _marginal_covariances(
    mixture: GaussianMixture, basis: Array
) -> Float[Array, "k r r"]:
    """Returns ``P' Sigma_k P`` of every component."""
    (k, d), r = mixture.means.shape, basis.shape[1]
    ranks, noise = jnp.asarray(mixture.ranks), jnp.asarray(mixture.noise)
    gram = jnp.matmul(basis.T, basis, precision=PRECISION)
    total = noise[:, None, None] * gram[None]
    capacity = mixture.rows.shape[0]
    if capacity == 0:
        return total
    rows, variances = jnp.asarray(mixture.rows), jnp.asarray(mixture.variances)
    # Spikes over noise: blocks of rows of one component each.
    owner = owners(mixture)
    partial = ranks.at[owner].get(mode="fill", fill_value=d) < d
    routed = routing.blocks(jnp.where(partial, owner, -1), k, size=SIZE)
    low = jnp.matmul(rows, basis, precision=PRECISION)
    own_noise = noise.at[owner].get(mode="fill", fill_value=0)
    excess = jnp.sqrt(jnp.maximum(variances * (variances - own_noise), 0))
    low = low * excess[:, None]
    used = jnp.sum(jnp.any(routed.filled, axis=1)).astype(jnp.int32)

    def add(i: Array, total: Array) -> Array:
        part = jnp.where(routed.filled[i][:, None], low[routed.slots[i]], 0)
        square = jnp.matmul(part.T, part, precision=PRECISION)
        return total.at[routed.group[i]].add(square)

    total = jax.lax.fori_loop(0, used, add, total)
    # Components of d rows: Sigma = (A'A)^-1. There are at most capacity // d of them.
    most = min(k, capacity // d)
    if most == 0:
        return total
    index = jnp.nonzero(ranks == d, size=most, fill_value=k)[0].astype(jnp.int32)
    offsets = jnp.asarray(mixture.offsets).at[index].get(mode="fill", fill_value=0)
    count = jnp.sum(ranks == d).astype(jnp.int32)

    def solve(i: Array, total: Array) -> Array:
        own = jax.lax.dynamic_slice_in_dim(rows, offsets[i], d)
        low = jnp.linalg.solve(own.T, basis)
        square = jnp.matmul(low.T, low, precision=PRECISION)
        return total.at[index[i]].set(square)

    return jax.lax.fori_loop(0, count, solve, total.reshape(k, r, r))


def project(
    shared: Marginals, samples: Float[Array, "n d"]
) -> tuple[Float[Array, "n r"], Float[Array, " n"]]:
    """Returns leading coordinates of samples, and distances from the centre.

    Args:
      shared: The marginals.
      samples: Samples.

    Returns:
      Coordinates and distances.
    """
    centred = samples - shared.centre[None, :]
    y = jnp.matmul(centred, shared.basis, precision=PRECISION)
    return y, jnp.linalg.norm(centred, axis=1)


def bounds_of_all(
    shared: Marginals, y: Float[Array, "n r"], lengths: Float[Array, " n"], *, rank: int
) -> Float[Array, "n k"]:
    """Bounds the cost of every component from below, by one matrix product.

    Args:
      shared: The marginals.
      y: Leading coordinates of the samples.
      lengths: Distances of the samples from the centre.
      rank: Coordinates to use.

    Returns:
      Bounds of the costs, infinite for dead components.
    """
    k = shared.means.shape[0]
    factors = shared.factors[:, :rank, :rank]
    flat = factors.reshape(k * rank, rank)
    shift = jnp.einsum(
        "krs,ks->kr", factors, shared.means[:, :rank], precision=PRECISION
    )
    z = jnp.matmul(y[:, :rank], flat.T, precision=PRECISION) - shift.reshape(1, -1)
    squares = jnp.sum(jnp.square(z.reshape(-1, k, rank)), axis=2)
    error = _norm(factors)[None, :] * (lengths[:, None] + shared.lengths[None, :])
    return lowered(squares, error) + shared.constants[None, :]


def lowered(squares: Array, error: Array) -> Array:
    """Returns squared lengths, the lengths lowered by so many units of rounding."""
    eps = float(np.finfo(squares.dtype).eps)
    low = jnp.square(jnp.maximum(jnp.sqrt(squares) - ROUNDING * eps * error, 0))
    return jnp.where(jnp.isnan(low), 0, low)  # What overflowed bounds nothing.
