"""Distances of pairs of a sample and a component, grouped by component.

The pairs that matter are few, and the rows of a component are shared by many of them:
`gladjax.routing` brings the pairs of a component into blocks, and each block is two
matrix products (see `gladjax.covariance` for the distance). Blocks of few rows take a
shorter product: a ``switch`` chooses among a handful of sizes.

Notation: ``n`` samples, ``p`` pairs, ``d`` features, ``b`` blocks of ``s`` slots, ``r``
rows.

Differs from the reference in: nothing; this is the first term of Eq. 1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gladjax import devices, mixture, routing
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.routing import Blocks

LEAST_ROWS = 32  # Products of fewer rows are not worth a program of their own.


def distances_of_pairs(
    given: GaussianMixture,
    samples: Float[AnyArray, "n d"],
    owner: Int[Array, " p"],
    component: Int[Array, " p"],
    *,
    routed: Blocks | None = None,
) -> Float[Array, " p"]:
    """Returns the squared Mahalanobis distances of some pairs.

    Args:
      given: The mixture.
      samples: Samples.
      owner: Sample of each pair.
      component: Component of each pair; pairs with a negative one are left out.
      routed: The pairs in blocks by component, if they are at hand.

    Returns:
      The distances, infinite where a pair is left out.
    """
    k, d = given.means.shape
    samples = jnp.asarray(samples)
    known = devices.sizes()
    if routed is None:
        routed = routing.blocks(component, k, size=known.slots)
    classes = _classes(d)
    size = max(1, known.elements // (d * (known.slots + 2 * classes[0])))
    routed = routing.batches(routed, size)
    block = _distance(given, classes)
    means = jnp.asarray(given.means)
    num_pairs = owner.shape[0]

    def visit(i: Array, out: Array) -> Array:
        slots, filled, group = routed.slots[i], routed.filled[i], routed.group[i]
        e = samples[owner[slots]] - means[group][:, None, :]
        values = block(jnp.where(filled[:, :, None], e, 0), group)
        slots = jnp.where(filled, slots, num_pairs)
        return out.at[slots].set(values, mode="drop")

    out = jnp.full((num_pairs,), jnp.inf, means.dtype)
    return jax.lax.fori_loop(0, routed.used, visit, out)


def slopes(
    given: GaussianMixture, samples: Float[Array, "n d"], shares: Float[Array, "k n"]
) -> Float[Array, "n d"]:
    """Returns the gradients of log-densities: ``-sum_k share_k Sigma_k^-1 (u - mu_k)``.

    Args:
      given: The mixture.
      samples: Samples ``u``.
      shares: Responsibilities; those that rounding cannot tell from 0 do not count.

    Returns:
      The gradients.
    """
    d = samples.shape[1]
    means, ranks = jnp.asarray(given.means), jnp.asarray(given.ranks)
    weighed = jnp.where(shares > jnp.finfo(samples.dtype).eps, shares, 0)

    def add(i: Array, total: Array) -> Array:
        e = samples - means[i][None, :]
        own = jax.lax.dynamic_index_in_dim(weighed, i, keepdims=False)
        pull = jax.lax.cond(
            jnp.any(own > 0),
            lambda: _pull(given, e, i, ranks[i] == d),
            lambda: jnp.zeros_like(e),
        )
        return total - own[:, None] * pull

    return jax.lax.fori_loop(0, means.shape[0], add, jnp.zeros_like(samples))


def _pull(given: GaussianMixture, e: Array, i: Array, complete: Array) -> Array:
    """Returns ``Sigma^-1 e`` of one component, the gradient of half the distance."""
    group, d = i[None], e.shape[1]
    parts = _parts(given)
    own, used = parts.rows_of(group, d)
    t = jnp.matmul(e, own[0].T, precision=PRECISION)
    v = jnp.matmul(t, parts.inverse_of(group, used)[0], precision=PRECISION)
    a, s = jnp.asarray(given.scales)[i], jnp.asarray(given.noise)[i]
    few = (e - a * jnp.matmul(v, own[0], precision=PRECISION)) / s
    return jnp.where(complete, jnp.matmul(t, own[0], precision=PRECISION), few)


def _classes(d: int) -> list[int]:
    """Returns the numbers of rows for which there are products of their own."""
    return sorted({min(d, max(d // 4**i, LEAST_ROWS)) for i in range(3)})


class _Parts(NamedTuple):
    """Functions that gather what some components own."""

    rows_of: Callable[[Array, int], tuple[Array, Array]]
    inverse_of: Callable[[Array, Array], Array]


def _parts(given: GaussianMixture) -> _Parts:
    d = given.means.shape[1]
    rows, inverses = jnp.asarray(given.rows), jnp.asarray(given.inverses)
    if rows.shape[0] == 0:  # Every component is its noise alone.
        rows = jnp.zeros((1, d), rows.dtype)
    if inverses.shape[0] == 0:
        inverses = jnp.zeros((1,), rows.dtype)
    offsets, ranks = jnp.asarray(given.offsets), jnp.asarray(given.ranks)
    begins = mixture.inverse_offsets(given)

    def rows_of(group: Array, size: int) -> tuple[Array, Array]:
        local = jnp.arange(size, dtype=jnp.int32)[None, :]
        used = local < ranks[group][:, None]
        own = rows.at[offsets[group][:, None] + local].get(mode="clip")
        return jnp.where(used[:, :, None], own, 0), used

    def inverse_of(group: Array, used: Array) -> Array:
        rank = ranks[group][:, None, None]
        local = jnp.arange(used.shape[1], dtype=jnp.int32)
        entry = local[None, :, None] * rank + local[None, None, :]
        entry = begins[group][:, None, None] + entry
        inside = used[:, :, None] & used[:, None, :] & (rank < d)
        return jnp.where(inside, inverses.at[entry].get(mode="clip"), 0)

    return _Parts(rows_of, inverse_of)


def _distance(
    given: GaussianMixture, classes: list[int]
) -> Callable[[Array, Array], Array]:
    """Returns a function from centred samples (b, s, d) to their distances (b, s)."""
    d, parts = given.means.shape[1], _parts(given)
    ranks, noise = jnp.asarray(given.ranks), jnp.asarray(given.noise)
    scales = jnp.asarray(given.scales)
    product = functools.partial(jnp.einsum, precision=PRECISION)

    def whole(e: Array, group: Array) -> Array:
        own, _ = parts.rows_of(group, d)
        return jnp.sum(jnp.square(product("bsd,brd->bsr", e, own)), axis=2)

    def spiked(size: int, e: Array, group: Array) -> Array:
        own, used = parts.rows_of(group, size)
        t = product("bsd,brd->bsr", e, own)
        v = product("bsr,brq->bsq", t, parts.inverse_of(group, used))
        a, s = scales[group][:, None], noise[group][:, None]
        f = e - a[:, :, None] * product("bsr,brd->bsd", v, own)
        few = jnp.sum(jnp.square(f), axis=2) / s + a * jnp.sum(jnp.square(v), axis=2)
        complete = ranks[group][:, None] == d
        return jnp.where(complete, jnp.sum(jnp.square(t), axis=2), few)

    branches = [whole, *(functools.partial(spiked, size) for size in classes)]
    limits = jnp.asarray(classes, jnp.int32)

    def distance(e: Array, group: Array) -> Array:
        own = ranks[group]
        branch = 1 + jnp.searchsorted(limits, jnp.max(own), side="left")
        branch = jnp.where(jnp.min(own) == d, 0, branch)
        return jax.lax.switch(branch, branches, e, group)

    return distance
