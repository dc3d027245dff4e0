"""Components of a mixture factored by batches, on any device.

What the M-step (`gladjax.estimation`), online K-MLE (`gladjax.online`) and the reading
of a model share. Components of rank below ``d`` are padded to a power of two, and those
of like rank go through one batch of Gram matrices and Cholesky factors (`each_few`);
those of ``d`` rows are factored as ``d x d`` matrices (`write_many`).

Notation: ``k`` components, ``d`` features, ``b`` components of a batch, ``c`` rows that
a batch has room for.

Differs from the reference in: there is none.

Reference: there is none.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gladjax import covariance, devices, mixture, programs
from gladjax.covariance import Factor, Shrinkage, Whitened
from gladjax.mixture import GaussianMixture


class Batch(NamedTuple):
    """Some components of rank below ``d``.

    Attributes:
      own: The components, ``k`` where there is none.
      ranks: Their ranks, 0 where there is none.
      local: Numbers of the rows, ``0 ... c - 1``.
      filled: Which rows are in use.
      entry: Places of the matrices ``H`` in the flat array, beyond it where unused.
    """

    own: Int[Array, " b"]
    ranks: Int[Array, " b"]
    local: Int[Array, " c"]
    filled: Bool[Array, "b c"]
    entry: Int[Array, "b c c"]


Visit = Callable[[GaussianMixture, Batch], GaussianMixture]


def ladder(largest: int) -> list[int]:
    """Returns numbers of rows for which there are programs, the last ``largest``.

    Small factors cost little, so few programs serve them; large ones are padded to at
    most twice their size.
    """
    sizes, step = [], 16
    while step < largest:
        sizes.append(step)
        step *= 4 if step < 64 else 2
    return [*sizes, largest] if largest > 0 else []


def each_few(fitted: GaussianMixture, visit: Visit, largest: int) -> GaussianMixture:
    """Visits the components of rank 1 to ``d - 1``, those of like rank together.

    Args:
      fitted: The mixture; offsets and ranks are those of the end.
      visit: From the mixture and a batch of components to the mixture with them.
      largest: Largest rank that occurs.

    Returns:
      The mixture after all visits.
    """
    k, d = fitted.means.shape
    ranks = jnp.asarray(fitted.ranks)
    size = jnp.where(ranks < d, ranks, 0)
    begins = mixture.inverse_offsets(fitted)
    order = jnp.argsort(size, stable=True).astype(jnp.int32)
    rising = size[order]
    room = fitted.inverses.shape[0]
    elements = devices.sizes().factored

    def body(
        i: Array, fitted: GaussianMixture, *, capacity: int, batch: int, span: Span
    ) -> GaussianMixture:
        first, last = span
        place = first + i * batch + jnp.arange(batch, dtype=jnp.int32)
        own = order.at[place].get(mode="clip")
        n = jnp.where(place < last, size[own], 0)
        local = jnp.arange(capacity, dtype=jnp.int32)
        filled = local[None, :] < n[:, None]
        entry = local[None, :, None] * n[:, None, None] + local[None, None, :]
        entry = begins[own][:, None, None] + entry
        entry = jnp.where(filled[:, :, None] & filled[:, None, :], entry, room)
        own = jnp.where(n > 0, own, k)
        return visit(fitted, Batch(own, n, local, filled, entry))

    first = jnp.searchsorted(rising, 1).astype(jnp.int32)
    for capacity in ladder(min(d - 1, largest)):
        last = jnp.searchsorted(rising, capacity, side="right").astype(jnp.int32)
        batch = max(1, min(k, elements // (capacity * (d + capacity))))
        step = partial(body, capacity=capacity, batch=batch, span=(first, last))
        fitted = jax.lax.fori_loop(0, (last - first + batch - 1) // batch, step, fitted)
        first = last
    return fitted


Span = tuple[Array, Array]


def rows_of(fitted: GaussianMixture, batch: Batch) -> Int[Array, "b c"]:
    """Returns the places of the rows of a batch, beyond the array where unused."""
    row = jnp.asarray(fitted.offsets).at[batch.own].get(mode="fill", fill_value=0)
    row = row[:, None] + batch.local[None, :]
    return jnp.where(batch.filled, row, fitted.rows.shape[0])


def write_few(fitted: GaussianMixture, batch: Batch, factor: Factor) -> GaussianMixture:
    """Writes the factors of a batch into the mixture."""
    own = batch.own
    return dataclasses.replace(
        fitted,
        inverses=fitted.inverses.at[batch.entry].set(factor.inverse, mode="drop"),
        scales=fitted.scales.at[own].set(factor.scale, mode="drop"),
        noise=fitted.noise.at[own].set(factor.noise, mode="drop"),
        log_dets=fitted.log_dets.at[own].set(factor.log_det, mode="drop"),
    )


def write_many(
    fitted: GaussianMixture, own: Int[Array, " b"], factor: Whitened
) -> GaussianMixture:
    """Writes whitening rows of components of rank ``d`` into the mixture.

    Args:
      fitted: The mixture.
      own: The components, ``k`` where there is none.
      factor: Their factors.
    """
    room = fitted.rows.shape[0]
    first = jnp.asarray(fitted.offsets).at[own].get(mode="fill", fill_value=room)
    # A window for each component: row by row it takes a CPU ten times as long.
    windows = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=(0,),
    )
    rows = jax.lax.scatter(
        fitted.rows,
        first[:, None],
        factor.rows,
        windows,
        unique_indices=True,
        mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
    )
    return dataclasses.replace(
        fitted,
        rows=rows,
        scales=fitted.scales.at[own].set(factor.scale, mode="drop"),
        noise=fitted.noise.at[own].set(factor.noise, mode="drop"),
        log_dets=fitted.log_dets.at[own].set(factor.log_det, mode="drop"),
    )


def each_many(
    fitted: GaussianMixture,
    scatter: Callable[[Array, Array], Float[Array, "b d d"]],
    counts: Float[Array, " k"],
    floor: Array,
    *,
    most: int,
    shrinkage: Shrinkage,
) -> GaussianMixture:
    """Factors all components of rank ``d`` from their scatters.

    Args:
      fitted: The mixture; offsets and ranks are those of the end.
      scatter: From components, and how many before them have rank ``d``, to their
        scatters.
      counts: Number of samples of each component.
      floor: Variance that stands in for 0.
      most: Number of components of rank ``d``, at most.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture with their rows.
    """
    k, d = fitted.means.shape
    if most == 0:
        return fitted
    many = jnp.asarray(fitted.ranks) == d
    own = jnp.nonzero(many, size=most, fill_value=k)[0].astype(jnp.int32)
    factors = jax.vmap(partial(covariance.whitened, shrinkage=shrinkage), (0, 0, None))
    batch = max(1, min(most, devices.sizes().factored // (2 * d * d)))

    def add(i: Array, fitted: GaussianMixture) -> GaussianMixture:
        at = i * batch + jnp.arange(batch, dtype=jnp.int32)
        mine = own.at[at].get(mode="fill", fill_value=k)
        count = counts.at[mine].get(mode="fill", fill_value=1)
        factor = factors(scatter(mine, at), count, floor)
        return write_many(fitted, mine, factor)

    found = jnp.sum(many, dtype=jnp.int32)
    return jax.lax.fori_loop(0, (found + batch - 1) // batch, add, fitted)


def from_roots(
    fitted: GaussianMixture,
    counts: Float[Array, " k"],
    floor: Array,
    *,
    shrinkage: Shrinkage = covariance.oas,
) -> GaussianMixture:
    """Fits covariances to roots of scatters (Eqs. 8, 9): the second half of an M-step.

    Args:
      fitted: A mixture whose rows are roots ``B_k`` of the scatters, ``d`` of them
        where there are as many or more; scales, noise, inverses and log-determinants
        are written.
      counts: Number of samples of each component.
      floor: Variance that stands in for 0.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture.
    """
    factors = jax.vmap(partial(covariance.spiked, shrinkage=shrinkage), (0, 0, None))
    roots, (k, d) = jnp.asarray(fitted.rows), fitted.means.shape
    capacity = roots.shape[0]

    def visit(fitted: GaussianMixture, batch: Batch) -> GaussianMixture:
        row = rows_of(fitted, batch)
        B = roots.at[row].get(mode="fill", fill_value=0)
        count = counts.at[batch.own].get(mode="fill", fill_value=1)
        return write_few(fitted, batch, factors(B, count, floor))

    def scatter(own: Array, at: Array) -> Array:
        del at
        first = jnp.asarray(fitted.offsets).at[own].get(mode="fill", fill_value=0)
        row = first[:, None] + jnp.arange(d, dtype=jnp.int32)[None, :]
        B = roots.at[row].get(mode="fill", fill_value=0)
        return jnp.einsum("brd,bre->bde", B, B, precision=covariance.PRECISION)

    after = each_few(fitted, visit, capacity)
    most = min(k, capacity // d)
    return each_many(after, scatter, counts, floor, most=most, shrinkage=shrinkage)


@partial(programs.Program, static=("entries",), alone=True)
def solved(given: GaussianMixture, entries: int) -> GaussianMixture:
    """Computes the inverses of a mixture that has everything else.

    Args:
      given: The mixture; its inverses are not looked at.
      entries: Size of the flat array of inverses.

    Returns:
      The mixture with them.
    """
    given = jax.tree.map(jnp.asarray, given)
    empty = jnp.zeros((entries,), given.rows.dtype)
    given = dataclasses.replace(given, inverses=empty)

    def visit(fitted: GaussianMixture, batch: Batch) -> GaussianMixture:
        B = given.rows.at[rows_of(given, batch)].get(mode="fill", fill_value=0)
        scale = given.scales.at[batch.own].get(mode="fill", fill_value=0)
        noise = given.noise.at[batch.own].get(mode="fill", fill_value=1)
        inverse = jax.vmap(covariance.inverse)(B, scale, noise)[0]
        inverses = fitted.inverses.at[batch.entry].set(inverse, mode="drop")
        return dataclasses.replace(fitted, inverses=inverses)

    return each_few(given, visit, given.rows.shape[0])
