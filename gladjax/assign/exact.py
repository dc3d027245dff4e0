"""Distances of pairs of a sample and a component, grouped by component.

The pairs that matter are few, and the rows of a component are shared by many of them:
`gladjax.routing` brings the pairs of a component into blocks, and each block is three
matrix products (see `gladjax.covariance` for the distance). Blocks of components of
like rank go through one program, padded to the next of a handful of sizes.

Notation: ``n`` samples, ``p`` pairs, ``d`` features, ``b`` blocks of ``s`` slots, ``r``
or ``q`` rows, ``c`` of them with padding.

Differs from the reference in: nothing; this is the first term of Eq. 1.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gladjax import devices, mixture, routing
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture

RUNGS = (32, 64, 128, 256, 512)  # Rows for which there are programs,
RATIO = 0.8  # if they are fewer than this share of ``d``.
PARTS = 16  # A batch is at most this part of all blocks: many of them may be empty.

Value = Callable[[Array, Array], Array]


def distances_of_pairs(
    given: GaussianMixture,
    samples: Float[AnyArray, "n d"],
    owner: Int[Array, " p"],
    component: Int[Array, " p"],
) -> Float[Array, " p"]:
    """Returns the squared Mahalanobis distances of some pairs.

    Args:
      given: The mixture.
      samples: Samples.
      owner: Sample of each pair.
      component: Component of each pair; pairs with a negative one are left out.

    Returns:
      The distances, infinite where a pair is left out.
    """
    return by_component(
        jnp.asarray(samples),
        jnp.asarray(given.means),
        (owner, component),
        _distances(given),
        ranks=jnp.asarray(given.ranks),
    )


def by_component(
    samples: Float[Array, "n d"],
    means: Float[Array, "k d"],
    pairs: tuple[Int[Array, " p"], Int[Array, " p"]],
    programs: Sequence[tuple[int, int, Value]],
    *,
    ranks: Int[Array, " k"],
) -> Float[Array, " p"]:
    """Computes a number for each pair, the pairs of a component together.

    Args:
      samples: Samples.
      means: Means of the components.
      pairs: Sample and component of each pair; negative components are left out.
      programs: Functions from centred samples of some components to their numbers, each
        with the largest rank that it serves, rising, and the rows that it takes.
      ranks: Rank of each component.

    Returns:
      The numbers, infinite where a pair is left out.
    """
    (k, d), (owner, component) = means.shape, pairs
    num_pairs, known = owner.shape[0], devices.sizes()
    # Blocks in the order of their components' ranks: those of like rank go together.
    order = jnp.argsort(ranks, stable=True).astype(jnp.int32)
    place = jnp.zeros((k,), jnp.int32).at[order].set(jnp.arange(k, dtype=jnp.int32))
    label = jnp.where(component >= 0, place[jnp.maximum(component, 0)], -1)
    routed = routing.blocks(label, k, size=known.slots)
    group = order[routed.group]
    block = jnp.arange(group.shape[0], dtype=jnp.int32)
    rising = jnp.where(block < routed.used, ranks[group], jnp.iinfo(jnp.int32).max)

    def visit(
        i: Array, out: Array, *, value: Value, batch: int, span: tuple[Array, ...]
    ) -> Array:
        at = span[0] + i * batch + jnp.arange(batch, dtype=jnp.int32)
        slots, own = routed.slots.at[at].get(mode="clip"), group.at[at].get(mode="clip")
        filled = routed.filled.at[at].get(mode="clip") & (at < span[1])[:, None]
        e = samples[owner[slots]] - means[own][:, None, :]
        values = value(jnp.where(filled[:, :, None], e, 0), own)
        slots = jnp.where(filled, slots, num_pairs)
        return out.at[slots].set(values, mode="drop")

    out = jnp.full((num_pairs,), jnp.inf, means.dtype)
    first = jnp.zeros((), jnp.int32)
    for most, size, value in programs:
        last = jnp.searchsorted(rising, most, side="right").astype(jnp.int32)
        batch = max(2, known.elements // (d * (known.slots + size)))
        batch = min(batch, -(-group.shape[0] // PARTS))
        step = functools.partial(visit, value=value, batch=batch, span=(first, last))
        out = jax.lax.fori_loop(0, (last - first + batch - 1) // batch, step, out)
        first = last
    return out


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
    size = min(e.shape[1], given.rows.shape[0])
    own, used, H = _owned(given, i[None], size)
    rows = jnp.where(used[0][:, None], own[0], 0)
    t = jnp.matmul(e, rows.T, precision=PRECISION)
    v = jnp.matmul(t, H[0], precision=PRECISION)
    a, s = jnp.asarray(given.scales)[i], jnp.asarray(given.noise)[i]
    few = (e - a * jnp.matmul(v, rows, precision=PRECISION)) / s
    return jnp.where(complete, jnp.matmul(t, rows, precision=PRECISION), few)


def _owned(
    given: GaussianMixture, group: Array, size: int
) -> tuple[Float[Array, "b c d"], Bool[Array, "b c"], Float[Array, "b c c"]]:
    """Returns a stretch of rows that holds those of each component, and its own.

    Slices of one size are copied several times as fast as rows that are gathered; those
    of other components among them meet zeros of ``H``.

    Args:
      given: The mixture.
      group: Components.
      size: Rows of each to return, at least the rank of every one.

    Returns:
      Rows, which of them are the component's, and ``H`` in their places, 0 where a
      component has ``d`` rows.
    """
    d = given.means.shape[1]
    rows, inverses = jnp.asarray(given.rows), jnp.asarray(given.inverses)
    ranks = jnp.asarray(given.ranks)[group]
    offsets = jnp.asarray(given.offsets)[group]
    begin = jnp.minimum(offsets, rows.shape[0] - size)
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, rows, slice_size=size)
    stretch = jax.vmap(cut)(begin)
    local = jnp.arange(size, dtype=jnp.int32)[None, :] - (offsets - begin)[:, None]
    used = (local >= 0) & (local < ranks[:, None])
    if inverses.shape[0] == 0:
        return stretch, used, jnp.zeros((*used.shape, size), rows.dtype)
    entry = mixture.inverse_offsets(given)[group][:, None, None]
    entry = entry + local[:, :, None] * ranks[:, None, None] + local[:, None, :]
    inside = used[:, :, None] & used[:, None, :] & (ranks < d)[:, None, None]
    return stretch, used, jnp.where(inside, inverses.at[entry].get(mode="clip"), 0)


def _distances(given: GaussianMixture) -> list[tuple[int, int, Value]]:
    """Returns functions from centred samples (b, s, d) to their distances (b, s).

    Returns:
      The functions, each with the largest rank that it serves, and the rows that it
      takes; ranks rise, and the last serves components of ``d`` rows.
    """
    d, capacity = given.means.shape[1], given.rows.shape[0]
    noise, scales = jnp.asarray(given.noise), jnp.asarray(given.scales)
    product = functools.partial(jnp.einsum, precision=PRECISION)

    def isotropic(e: Array, group: Array) -> Array:
        return jnp.sum(jnp.square(e), axis=2) / noise[group][:, None]

    def spiked(size: int, e: Array, group: Array) -> Array:
        own, used, H = _owned(given, group, size)
        # Rows first: products of this order are the fastest ones on a CPU.
        t = jnp.where(used[:, :, None], product("brd,bsd->brs", own, e), 0)
        v = product("brs,brq->bsq", t, H)
        a, s = scales[group][:, None], noise[group][:, None]
        f = e - a[:, :, None] * product("bsq,bqd->bsd", v, own)
        return jnp.sum(jnp.square(f), axis=2) / s + a * jnp.sum(jnp.square(v), axis=2)

    def whole(e: Array, group: Array) -> Array:
        own = _owned(given, group, d)[0]
        return jnp.sum(jnp.square(product("brd,bsd->brs", own, e)), axis=1)

    if capacity == 0:
        return [(d, 0, isotropic)]
    sizes = [size for size in RUNGS if size < RATIO * d]
    few = sorted({min(size, capacity) for size in (*sizes, d)})
    served = [(min(size, d - 1), size, functools.partial(spiked, size)) for size in few]
    return [*served, *([(d, d, whole)] if capacity >= d else [])]
