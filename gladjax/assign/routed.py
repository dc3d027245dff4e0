"""Full distances of (sample, component) pairs in JAX, grouped by component.

The pairs that matter are few, and a component's rows are shared by many of them:
`gladjax.routing` brings the pairs of a component into blocks, and each block is two
matrix products. Blocks of few rows take a shorter product: a `switch` chooses among a
handful of sizes.

Notation: ``n`` samples, ``p`` pairs, ``d`` features, ``b`` blocks of ``s`` slots.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gladjax import routing
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.routing import Blocks

SLOTS = 32  # Pairs in a block.
LEAST_ROWS = 32  # Products of fewer rows are not worth a program of their own.
BATCH = {"cpu": 1}  # Blocks at once; accelerators want more.
BATCH_DEFAULT = 32

Block = Callable[[Array, Array, Array], Array]


def distances_of_pairs(
    mixture: GaussianMixture,
    samples: Float[AnyArray, "n d"],
    owner: Int[Array, " p"],
    component: Int[Array, " p"],
    *,
    routed: Blocks | None = None,
) -> Float[Array, " p"]:
    """Returns the squared Mahalanobis distances of some pairs.

    Args:
      mixture: The mixture.
      samples: Samples.
      owner: Sample of each pair.
      component: Component of each pair; pairs with a negative one are left out.
      routed: Blocks of the pairs by component, if they are at hand; they are constants
        where the pairs are.

    Returns:
      The distances, infinite where a pair is left out. Differentiable in reverse only
      where ``routed`` is given (otherwise only as many blocks run as hold a pair).
    """
    k, d = mixture.means.shape
    samples = jnp.asarray(samples)
    block = _distance(mixture, d)
    means, offsets = jnp.asarray(mixture.means), jnp.asarray(mixture.offsets)
    ranks, noise = jnp.asarray(mixture.ranks), jnp.asarray(mixture.noise)

    def visit(slots: Array, filled: Array, group: Array) -> Array:
        e = samples[owner[slots]] - means[group][:, None, :]
        e = jnp.where(filled[:, :, None], e, 0)
        return block(e, offsets[group], ranks[group], noise[group])

    if routed is not None:
        return map_pairs(visit, routed, owner.shape[0])
    routed = routing.blocks(component, k, size=SLOTS)
    return drain(visit, routed, owner.shape[0], samples.dtype)


def _distance(mixture: GaussianMixture, d: int) -> Callable[..., Array]:
    """Returns a function from centred samples (b, s, d) to their distances (b, s)."""
    rows, variances = jnp.asarray(mixture.rows), jnp.asarray(mixture.variances)
    if rows.shape[0] == 0:  # Every component is its noise alone.
        rows = jnp.zeros((1, d), rows.dtype)
        variances = jnp.ones((1,), variances.dtype)
    sizes = sorted({min(d, max(d // 2**i, LEAST_ROWS)) for i in range(4)})

    def product(size: int, e: Array, offset: Array, rank: Array, noise: Array) -> Array:
        local = jnp.arange(size, dtype=jnp.int32)[None, :]
        index, used = offset[:, None] + local, local < rank[:, None]
        own = jnp.where(used[:, :, None], rows.at[index].get(mode="clip"), 0)
        spread = variances.at[index].get(mode="clip")
        y = jnp.einsum("bsd,brd->bsr", e, own, precision=PRECISION)
        weighted = y * spread[:, None, :]
        back = jnp.einsum("bsr,brd->bsd", weighted, own, precision=PRECISION)
        outside = jnp.sum(jnp.square(e - back), axis=2) / noise[:, None]
        complete = (rank == d)[:, None]
        return jnp.sum(jnp.square(y), axis=2) + jnp.where(complete, 0, outside)

    branches = [functools.partial(product, size) for size in sizes]
    limits = jnp.asarray(sizes, jnp.int32)

    def distance(e: Array, offset: Array, rank: Array, noise: Array) -> Array:
        branch = jnp.searchsorted(limits, jnp.max(rank), side="left")
        return jax.lax.switch(branch, branches, e, offset, rank, noise)

    return distance


def batch_size() -> int:
    """Returns how many blocks this platform takes at once."""
    return BATCH.get(jax.default_backend(), BATCH_DEFAULT)


def _batches(routed: Blocks, size: int) -> tuple[Array, Array, Array]:
    """Returns slots, filled and group, padded to whole batches of blocks."""
    missing = -routed.group.shape[0] % size
    pad = ((0, missing), (0, 0))
    slots, filled = jnp.pad(routed.slots, pad), jnp.pad(routed.filled, pad)
    group = jnp.pad(routed.group, pad[0])
    count, width = group.shape[0] // size, slots.shape[1]
    return (
        slots.reshape(count, size, width),
        filled.reshape(count, size, width),
        group.reshape(count, size),
    )


def map_pairs(visit: Block, routed: Blocks, num_pairs: int) -> Float[Array, " p"]:
    """Computes one value per pair, block after block.

    Args:
      visit: From slots ``(b, s)``, filled ``(b, s)`` and components ``(b,)`` of some
        blocks to values ``(b, s)``.
      routed: The blocks.
      num_pairs: Number of pairs ``p``.

    Returns:
      The values, infinite where a pair is in no block.
    """
    slots, filled, group = _batches(routed, batch_size())
    values = jax.lax.map(lambda part: visit(*part), (slots, filled, group))
    slots = jnp.where(filled, slots, num_pairs)
    out = jnp.full((num_pairs,), jnp.inf, values.dtype)
    return out.at[slots.ravel()].set(values.ravel(), mode="drop")


def drain(
    visit: Block, routed: Blocks, num_pairs: int, dtype: jnp.dtype
) -> Float[Array, " p"]:
    """Computes what `map_pairs` does, in as many blocks only as hold a pair.

    Args:
      visit: See `map_pairs`.
      routed: The blocks, used ones first.
      num_pairs: Number of pairs ``p``.
      dtype: Of the values.

    Returns:
      The values, infinite where a pair is in no block.
    """
    size = batch_size()
    slots, filled, group = _batches(routed, size)
    used = jnp.sum(jnp.any(routed.filled, axis=1)).astype(jnp.int32)

    def step(i: Array, out: Array) -> Array:
        values = visit(slots[i], filled[i], group[i])
        index = jnp.where(filled[i], slots[i], num_pairs)
        return out.at[index.ravel()].set(values.ravel(), mode="drop")

    start = jnp.full((num_pairs,), jnp.inf, dtype)
    return jax.lax.fori_loop(0, (used + size - 1) // size, step, start)
