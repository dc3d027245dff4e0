"""How deep the cascade of the pruned assignment in JAX is, chosen from the data."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax.assign.dense import dense
from gladjax.assign.marginals import axes, lowered, marginals, project
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.pytree import pytree, static

STAGE, RANK = 16, 64  # Where nothing is known.
STAGES = (4, 8, 16, 24, 32)  # Choices of the first bound.
RANKS = (16, 32, 64, 128)  # Choices of the second one.
SEEN = 4096  # Samples that the axes are computed from.
TRIAL = 64  # Samples on which the choice is made.
LISTING = 400.0  # Multiply-adds that handling one listed pair is worth.


@pytree
class Plan:
    """Leading coordinates, and how many of them make the first bound.

    Attributes:
      basis: Directions of the leading coordinates, orthonormal columns.
      stage: Coordinates that bound every pair; the columns of the basis bound what is
        left.
    """

    basis: Float[AnyArray, "d r"]
    stage: int = static()


def plan(mixture: GaussianMixture, features: Float[AnyArray, "n d"]) -> Plan:
    """Chooses the cascade by its work on a few samples (outside of a trace).

    Args:
      mixture: The mixture, or one like it.
      features: Samples, at least one.

    Returns:
      The plan of least expected work; it changes the time, never a label.
    """
    k, d = mixture.means.shape
    mixture = jax.tree.map(jnp.asarray, mixture)
    dtype = mixture.means.dtype
    seen = features[:: max(1, features.shape[0] // SEEN)]
    basis, left = _trial(mixture, jnp.asarray(np.asarray(seen), dtype))
    left = np.asarray(left, np.float64).tolist()
    # A full distance takes two products with all rows of a component.
    full = 2 * d * max(mixture.rows.shape[0] / k, 1)

    def work(pair: tuple[int, int]) -> float:
        first, second = pair
        refined = left[first - 1] * (second**2 + LISTING) if second > first else 0
        return k * first**2 + refined + left[second - 1] * (full + LISTING)

    ranks = sorted({min(r, d) for r in (*STAGES, *RANKS)})
    choices = [(a, b) for a in ranks for b in ranks if a <= b and a <= STAGES[-1]]
    stage, rank = min(choices, key=work)
    return Plan(basis=basis[:, :rank], stage=stage)


@jax.jit
def _trial(
    mixture: GaussianMixture, features: Float[Array, "n d"]
) -> tuple[Float[Array, "d r"], Float[Array, " r"]]:
    """Returns the axes, and the components per sample left by 1, ..., r of them."""
    d = features.shape[1]
    basis = axes(features)[:, : min(RANKS[-1], d)]
    shared = marginals(mixture, basis)
    sample = features[:: max(1, features.shape[0] // TRIAL)][:TRIAL]
    _, cost = dense(mixture, sample)
    y, lengths = project(shared, sample)

    def one(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        mean, factor, length, constant = part
        z = jnp.matmul(y - mean[None, :], factor.T, precision=PRECISION)
        error = jnp.linalg.norm(factor) * (lengths + length)
        squares = jnp.cumsum(jnp.square(z), axis=1)
        bound = lowered(squares, error[:, None]) + constant
        return total + jnp.sum(bound <= cost[:, None], axis=0), None

    parts = (shared.means, shared.factors, shared.lengths, shared.constants)
    total, _ = jax.lax.scan(one, jnp.zeros((basis.shape[1],), jnp.int32), parts)
    return basis, total / sample.shape[0]
