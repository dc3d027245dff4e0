"""Lower bounds of the costs of all components, by one matrix product.

A marginal of a Gaussian bounds its distance from below: for any ``P (d, r)`` of full
column rank

    (P'e)' (P' Sigma P)^-1 (P'e)  <=  e' Sigma^-1 e

with equality where ``r = d``. `Coordinates` are the leading principal axes of the
samples, centred and divided by the spread along each of them: ``z = P'(u - c)``, of
order 1. With ``F' F = (P' Sigma_k P)^-1`` and ``m = P'(mu_k - c)`` the bound

    |F (z - m)|^2 = z'G z - 2 (G m)'z + m'G m,    G = F'F

is a polynomial of second degree in ``z``. `monomials` are the ``r (r + 1) / 2 + r + 1``
products of coordinates, `Bounds.coefficients` the factors of each component, and
`lower` multiplies the two. Where features are many, the pairs that this leaves open get
a tighter bound from more coordinates, ``|F (z - m)|^2`` itself (`lower_of_pairs`): a
few percent of what the cost is.

Rounding. What is returned must not exceed the distance. Three further "monomials",
``|z|^2``, ``|z|`` and ``|u - c|^2``, with negative coefficients lower the bounds by
more than their error. Rounding errors are taken as independent and of mean zero, so a
sum of ``m`` products is off by at most ``gamma(m) = 8 sqrt(m) eps / 2`` times the sum
of their sizes, with a probability that is 1 up to ``2 m e^-32`` (Higham and Mary). Then

  * the product of ``m`` monomials errs by ``gamma(m)`` times
    ``|z|^2 |G| + 2 |z| |G m| + m'G m``;
  * forming ``G`` and ``G m`` from ``F`` errs by ``gamma(r) |F|^2 (|z| + |m|)^2``;
  * coordinates err by ``gamma(d) |u - c| / sigma_a`` along axis ``a``, which moves
    ``|F (z - m)|`` by at most ``gamma(d) eta (|u - c| + |mu - c|)`` with ``eta`` the
    norm of ``F diag(1 / sigma)``; a share ``TAU`` of the bound is given up for that;
  * ``F`` comes from a marginal that is formed and factored with errors: ``F M F'`` is
    formed again, and its distance from the identity, with what rounding may hide in
    ``M``, is given up.

Notation: ``n`` samples ``u``, ``k`` components, ``d`` features, ``r`` leading
coordinates, ``m`` monomials, ``sigma`` the spread along the axes.

Differs from the reference in: nothing that shows; the paper computes all the costs.

Reference: Higham, Mary, "A new approach to probabilistic rounding error analysis",
SIAM J. Sci. Comput. 41(5), 2019.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import devices, mixture, routing
from gladjax.assign.exact import by_component
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture

TAU = 2.0**-10  # Share of a bound that is given up for errors of the coordinates.
PRECISE = (
    0.4  # Margin below which a polynomial is as good: real errors are 1 / 200 of it.
)
LAMBDA = 8.0  # Standard deviations of rounding that a bound is safe from.
SEEN = 4096  # Samples that the axes are computed from.
SIZE = 32  # Rows in a block.
LEAST, HALVES = 16, 4  # Components of a product, and how often they are halved.


class Coordinates(NamedTuple):
    """The leading coordinates of the samples of a layer.

    Attributes:
      basis: Principal axes over the spread along them.
      centre: Point that is taken from samples first.
      finer: More such axes, the leading ones among them; None where there is no use.
    """

    basis: Float[Array, "d r"]
    centre: Float[Array, " d"]
    finer: Float[Array, "d q"] | None = None


class Fine(NamedTuple):
    """What bounds the distances of single pairs, in more coordinates.

    Attributes:
      coordinates: In which the bounds are taken.
      factors: ``F``, 0 where it cannot be had.
      means: Coordinates of the means.
      keep: What is left of a bound after the errors of ``F``.
      slack: What the product with ``F`` may lose, for ``|z - m| = 1``.
      bend: What coordinates may lose, for ``|u - c| + |mu - c| = 1``.
      away: ``|mu - c|``.
    """

    coordinates: Coordinates
    factors: Float[Array, "k q q"]
    means: Float[Array, "k q"]
    keep: Float[Array, " k"]
    slack: Float[Array, " k"]
    bend: Float[Array, " k"]
    away: Float[Array, " k"]


class Factors(NamedTuple):
    """Factors of the precisions of marginals.

    Attributes:
      factors: ``F``, 0 where it cannot be had.
      lost: What of a bound is lost to the errors of ``F``, infinite where it is 0.
      eta: Norm of ``F diag(1 / sigma)``.
    """

    factors: Float[Array, "k r r"]
    lost: Float[Array, " k"]
    eta: Float[Array, " k"]


class Bounds(NamedTuple):
    """What bounds the distances to all components.

    Attributes:
      coordinates: In which the bounds are taken.
      coefficients: Factors of the monomials.
      precise: Components whose bounds are the distances themselves; None where none
        is, see `prepare`.
      margin: What rounding may do to the bound at the mean of each component.
      living: Components up to the last living one.
      fine: Tighter bounds of single pairs; None where there are none.
      ids: Where in the mixture the components are; None where all are there, in order.
    """

    coordinates: Coordinates
    coefficients: Float[Array, "k m"]
    precise: Bool[Array, " k"] | None
    margin: Float[Array, " k"]
    living: Int[Array, ""]
    fine: Fine | None
    ids: Int[Array, " k"] | None = None


def first(bounds: Bounds, count: int) -> Bounds:
    """Returns the bounds of the first components, outside of any trace.

    Args:
      bounds: Those of all, lowered for rounding: none is `precise`.
      count: How many, the last living one among them.
    """

    def cut(of: Array) -> Array:  # Without a program.
        return jnp.asarray(np.asarray(of)[:count])

    fine = bounds.fine
    return bounds._replace(
        coefficients=cut(bounds.coefficients),
        margin=cut(bounds.margin),
        fine=fine and Fine(fine.coordinates, *map(cut, fine[1:])),
    )


def among(bounds: Bounds, ids: Int[Array, " w"]) -> Bounds:
    """Returns the bounds of some components.

    Args:
      bounds: Those of all, lowered for rounding: none is `precise`.
      ids: The components; numbers beyond the last one stand for none, and come last.
    """
    k, fine = bounds.coefficients.shape[0], bounds.fine
    if fine is not None:
        own = (a[ids] for a in fine[1:])
        fine = Fine(fine.coordinates, *own)
    return bounds._replace(
        coefficients=bounds.coefficients[ids],
        margin=bounds.margin[ids],
        living=jnp.sum(ids < k, dtype=jnp.int32),
        fine=fine,
        ids=ids,
    )


def coordinates(
    features: Float[AnyArray, "n d"],
    *,
    valid: Bool[AnyArray, " n"] | None = None,
    ranks: tuple[int, int] | None = None,
) -> Coordinates:
    """Chooses the leading coordinates from a regular subsample.

    Any choice is correct; principal axes prune more than linear discriminants do,
    because components that differ in volume are told apart by energy, not by the
    distance of their means.

    Args:
      features: Samples.
      valid: Samples that count; those that are not finite never do.
      ranks: Number of coordinates, and of those that bound single pairs; by default
        those of `devices.ranks`.

    Returns:
      The coordinates.
    """
    n, d = features.shape
    rank, most = devices.ranks(d) if ranks is None else ranks
    every = max(1, n // SEEN)
    sample = jnp.asarray(features[::every])
    keep = jnp.all(jnp.isfinite(sample), axis=1)
    if valid is not None:
        keep &= jnp.asarray(valid[::every])
    x = jnp.where(keep[:, None], sample, 0)
    count = jnp.maximum(jnp.sum(keep), 1).astype(x.dtype)
    centre = jnp.sum(x, axis=0) / count
    x = jnp.where(keep[:, None], x - centre[None, :], 0)
    scatter = jnp.matmul(x.T, x, precision=PRECISION) / count
    values, vectors = jnp.linalg.eigh(scatter)
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    # An axis along which nothing varies keeps a spread that float32 can resolve.
    least = jnp.finfo(x.dtype).eps * jnp.maximum(values[0], jnp.finfo(x.dtype).tiny)
    basis = vectors / jnp.sqrt(jnp.maximum(values, least))[None, :]
    sound = jnp.all(jnp.isfinite(basis))
    basis = jnp.where(sound, basis, jnp.eye(d, most, dtype=x.dtype))
    return Coordinates(basis[:, :rank], centre, basis if most > rank else None)


def monomials(shared: Coordinates, samples: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """Returns the monomials of samples, one sample a column.

    Args:
      shared: The coordinates.
      samples: Samples.

    Returns:
      Products of two coordinates, coordinates, 1, ``|z|^2``, ``|z|``, ``|u - c|^2``.
    """
    e = samples - shared.centre[None, :]
    z = jnp.matmul(shared.basis.T, e.T, precision=PRECISION)
    first, second = np.triu_indices(z.shape[0])
    length = jnp.sum(jnp.square(z), axis=0, keepdims=True)
    far = jnp.sum(jnp.square(e), axis=1)[None, :]
    parts = (z[first] * z[second], z, jnp.ones_like(length), length, jnp.sqrt(length))
    return jnp.concatenate([*parts, far])


def lower(bounds: Bounds, phi: Float[Array, "m n"]) -> Float[Array, "k n"]:
    """Bounds the squared Mahalanobis distances from below: one matrix product.

    Components after the last living one cost little: they are left out by halves.
    """
    k = bounds.coefficients.shape[0]
    sizes = [k]
    while sizes[0] >= 2 * LEAST and len(sizes) < HALVES:
        sizes.insert(0, -(-sizes[0] // 2))

    def product(size: int) -> Array:
        some = bounds.coefficients[:size]
        low = jnp.matmul(some, phi, precision=PRECISION)
        # What overflowed bounds nothing, and nothing is below 0.
        return jnp.pad(jnp.where(low > 0, low, 0), ((0, k - size), (0, 0)))

    if len(sizes) == 1:
        return product(k)
    index = sum((bounds.living > size).astype(jnp.int32) for size in sizes[:-1])
    return jax.lax.switch(index, [partial(product, size) for size in sizes])


def gamma(terms: int, dtype: jnp.dtype) -> float:
    """Returns what bounds the relative error of a sum of so many products."""
    return LAMBDA * math.sqrt(terms) * float(jnp.finfo(dtype).eps) / 2


def prepare(
    given: GaussianMixture, shared: Coordinates, *, margin: bool = True
) -> Bounds:
    """Forms the coefficients of all components.

    Args:
      given: The mixture.
      shared: The coordinates.
      margin: Whether all bounds are lowered by more than their rounding. Without, and
        with all coordinates, those whose margin is below `PRECISE` are the distances.

    Returns:
      The bounds.
    """
    means, basis = jnp.asarray(given.means), shared.basis
    every = basis if shared.finer is None else shared.finer
    (F, lost, eta), more = _factored(given, every, basis.shape[1])
    sound = jnp.isfinite(lost)
    (d, r), dtype = basis.shape, means.dtype
    e = means - shared.centre[None, :]
    m = jnp.matmul(e, basis, precision=PRECISION)
    product = partial(jnp.einsum, precision=PRECISION)
    G = product("kab,kac->kbc", F, F)
    Fm = product("kab,kb->ka", F, m)
    Gm = product("kab,ka->kb", F, Fm)
    square = jnp.sum(jnp.square(Fm), axis=1)
    own, forming = gamma(r * (r + 3) // 2 + 4, dtype), 2 * gamma(r, dtype)
    energy, long = jnp.sum(jnp.square(F), axis=(1, 2)), jnp.linalg.norm(m, axis=1)
    bends = jnp.where(sound, (gamma(d, dtype) * eta) ** 2 * 2 / TAU, 0)
    constant = own * square + forming * energy * long**2
    constant = constant + bends * jnp.sum(jnp.square(e), axis=1)
    linear = 2 * (own * jnp.linalg.norm(Gm, axis=1) + forming * energy * long)
    quadratic = own * _norm(G) + forming * energy
    errs = constant + long * (linear + quadratic * long)
    precise = None if margin else sound & (errs < PRECISE)
    given_up = jnp.ones((len(errs), 1), dtype)
    if precise is not None:
        given_up = jnp.where(precise, 0, 1)[:, None]
    keep = jnp.where(given_up > 0, (1 - TAU) / (1 + lost[:, None]), 1)
    keep = jnp.where(sound[:, None], keep, 0)
    first, second = np.triu_indices(r)
    twice = jnp.asarray(np.where(first == second, 1, 2), dtype)
    lowered = jnp.stack([constant, quadratic, linear, bends], axis=1) * given_up
    parts = [
        keep * G[:, first, second] * twice[None, :],
        -2 * keep * Gm,
        keep * square[:, None] - lowered[:, :1],
        -lowered[:, 1:],
    ]
    alive = jnp.isfinite(jnp.asarray(given.log_weights))
    place = jnp.arange(1, len(errs) + 1, dtype=jnp.int32)
    living = jnp.max(jnp.where(alive, place, 0), initial=0)
    return Bounds(
        shared,
        jnp.concatenate(parts, axis=1),
        precise,
        errs,
        living,
        None
        if shared.finer is None
        else _fine(more, Coordinates(shared.finer, shared.centre), e),
    )


def _fine(factors: Factors, shared: Coordinates, e: Float[Array, "k d"]) -> Fine:
    """Returns what bounds single pairs; ``e`` are the centred means."""
    F, lost, eta = factors
    (d, q), dtype = shared.basis.shape, e.dtype
    sound = jnp.isfinite(lost)
    return Fine(
        coordinates=shared,
        factors=F,
        means=jnp.matmul(e, shared.basis, precision=PRECISION),
        keep=jnp.where(sound, 1 / (1 + lost), 0),
        slack=gamma(q, dtype) * _norm(F),
        bend=jnp.where(sound, gamma(d, dtype) * eta, 0),
        away=jnp.linalg.norm(e, axis=1),
    )


def lower_of_pairs(
    fine: Fine,
    samples: Float[Array, "n d"],
    owner: Int[Array, " p"],
    component: Int[Array, " p"],
) -> Float[Array, " p"]:
    """Bounds the distances of some pairs in more coordinates than `lower` does.

    ``|F (z - m)|`` as it is computed, less what its roundings may have added.

    Args:
      fine: What bounds them.
      samples: Samples.
      owner: Sample of each pair.
      component: Component of each pair; pairs with a negative one are left out.

    Returns:
      The bounds, infinite where a pair is left out.
    """
    e = samples - fine.coordinates.centre[None, :]
    z = jnp.matmul(e, fine.coordinates.basis, precision=PRECISION)
    q = z.shape[1]

    def value(e: Array, group: Array) -> Array:
        t = jnp.einsum("brd,bsd->brs", fine.factors[group], e, precision=PRECISION)
        length = jnp.sqrt(jnp.sum(jnp.square(e), axis=2))
        slack = fine.slack[group][:, None] * length
        return jnp.sqrt(jnp.sum(jnp.square(t), axis=1)) - slack

    none = jnp.zeros(fine.away.shape, jnp.int32)
    length = by_component(
        z, fine.means, (owner, component), [(0, q, value)], ranks=none
    )
    own = jnp.maximum(component, 0)
    far = jnp.linalg.norm(e, axis=1)[owner] + fine.away[own]
    length = length - fine.bend[own] * far
    # What overflowed bounds nothing.
    length = jnp.where(length > 0, length, 0)
    low = jnp.square(length) * (fine.keep[own] * (1 - gamma(q + 8, z.dtype)))
    return jnp.where(component >= 0, low, jnp.inf)


def _factored(
    given: GaussianMixture, basis: Float[Array, "d q"], leading: int
) -> list[Factors]:
    """Returns ``F`` for the leading coordinates, and for all of them.

    One Cholesky factor serves both: its leading block is that of the leading block.
    (Two batched factorisations side by side in a program may wait for each other's
    threads for ever, in jaxlib 0.10.2 on a CPU of two cores.)
    """
    M, traces = _marginals(given, basis)
    q = basis.shape[1]
    batch = max(1, devices.sizes().factored // (q * q))
    identity = jnp.eye(q, dtype=basis.dtype)
    inverted = jax.vmap(
        lambda one: jax.scipy.linalg.solve_triangular(
            jnp.linalg.cholesky(one), identity, lower=True
        )
    )

    def several(
        M: Array, traces: Array, alive: Array
    ) -> tuple[list[Factors], tuple[()]]:
        def factored() -> list[Factors]:
            inverse = inverted(M)
            return [
                _checked(inverse[:, :r, :r], M[:, :r, :r], traces, basis[:, :r])
                for r in (leading, q)
            ]

        def nothing() -> list[Factors]:
            zero = jnp.zeros_like(traces)
            return [
                Factors(jnp.zeros_like(M[:, :r, :r]), zero + jnp.inf, zero)
                for r in (leading, q)
            ]

        # A batch of dead components costs nothing, and has no factors.
        return jax.lax.cond(jnp.any(alive), factored, nothing), ()

    alive = jnp.isfinite(jnp.asarray(given.log_weights))
    return devices.in_chunks(several, (M, traces, alive), batch)[0]


def _checked(
    inverse: Float[Array, "k r r"],
    M: Float[Array, "k r r"],
    traces: Float[Array, " k"],
    basis: Float[Array, "d r"],
) -> Factors:
    d, r = basis.shape
    # F M F' tells what the factorisation lost, the rest is what M may have lost.
    left = jnp.matmul(inverse, M, precision=PRECISION)
    whole = jnp.matmul(left, jnp.swapaxes(inverse, 1, 2), precision=PRECISION)
    lost = _norm(whole - jnp.eye(r, dtype=M.dtype)[None])
    diagonal = jnp.sqrt(jnp.maximum(jnp.diagonal(M, axis1=1, axis2=2), 0))
    eta = _norm(inverse * jnp.linalg.norm(basis, axis=0)[None, None, :])
    hidden = 4 * gamma(d, M.dtype) * eta * jnp.sqrt(traces)
    lost = lost + hidden * _norm(inverse * diagonal[:, None, :])
    F = jnp.tril(inverse)
    sound = jnp.all(jnp.isfinite(F), axis=(1, 2)) & jnp.isfinite(lost)
    lost = jnp.where(sound, lost, jnp.inf)
    return Factors(jnp.where(sound[:, None, None], F, 0), lost, eta)


def _norm(matrices: Float[Array, "k r s"]) -> Float[Array, " k"]:
    return jnp.sqrt(jnp.sum(jnp.square(matrices), axis=(1, 2)))


def _marginals(
    given: GaussianMixture, basis: Array
) -> tuple[Float[Array, "k r r"], Float[Array, " k"]]:
    """Returns ``P' Sigma_k P`` and a bound of ``tr Sigma_k`` of every component."""
    (k, d), r = given.means.shape, basis.shape[1]
    ranks, noise = jnp.asarray(given.ranks), jnp.asarray(given.noise)
    scales, rows = jnp.asarray(given.scales), jnp.asarray(given.rows)
    gram = jnp.matmul(basis.T, basis, precision=PRECISION)
    total = noise[:, None, None] * gram[None]
    traces = d * jnp.where(ranks == d, scales, noise)
    capacity = rows.shape[0]
    if capacity == 0:
        return total, traces
    # Noise and the scatter of the rows: blocks of rows of one component each.
    owner = mixture.owners(given)
    few = ranks.at[owner].get(mode="fill", fill_value=d) < d
    routed = routing.blocks(jnp.where(few, owner, -1), k, size=SIZE)
    routed = routing.batches(routed, max(1, devices.sizes().factored // (SIZE * d)))

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, traces = carry
        group, filled = routed.group[i], routed.filled[i][:, :, None]
        own = jnp.where(filled, rows[routed.slots[i]], 0)
        own = own * jnp.sqrt(scales[group])[:, None, None]
        low = jnp.einsum("bsd,dr->bsr", own, basis, precision=PRECISION)
        square = jnp.einsum("bsr,bsq->brq", low, low, precision=PRECISION)
        energy = jnp.sum(jnp.square(own), axis=(1, 2))
        return total.at[group].add(square), traces.at[group].add(energy)

    total, traces = jax.lax.fori_loop(0, routed.used, add, (total, traces))
    # Components of d rows: Sigma = L L', rows = L^-1. At most capacity // d of them.
    most = min(k, capacity // d)
    if most == 0:
        return total, traces
    index = jnp.nonzero(ranks == d, size=most, fill_value=k)[0].astype(jnp.int32)
    count = jnp.sum(ranks == d, dtype=jnp.int32)
    offsets = jnp.asarray(given.offsets)
    batch = max(1, min(most, devices.sizes().factored // (d * (d + r))))
    identity = jnp.eye(d, dtype=rows.dtype)
    solve = jax.vmap(
        lambda own, right: jax.scipy.linalg.solve_triangular(
            own, right, trans=1, lower=True
        ),
        (0, None),
    )

    def several(i: Array, total: Array) -> Array:
        at = index.at[i * batch + jnp.arange(batch, dtype=jnp.int32)]
        mine = at.get(mode="fill", fill_value=k)
        first = offsets.at[mine].get(mode="fill", fill_value=0)[:, None]
        own = rows.at[first + jnp.arange(d, dtype=jnp.int32)[None, :]].get(mode="clip")
        own = jnp.where((mine < k)[:, None, None], own, identity[None])
        part = solve(own, basis)
        square = jnp.einsum("bda,bdc->bac", part, part, precision=PRECISION)
        return total.at[mine].set(square, mode="drop")

    total = total.reshape(k, r, r)
    total = jax.lax.fori_loop(0, (count + batch - 1) // batch, several, total)
    return total, traces
