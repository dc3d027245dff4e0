"""The pruned assignment in JAX, with static shapes: for traces and accelerators.

Samples go through a cascade in chunks. One matrix product bounds the costs of all
components (`Plan.stage` coordinates); the component of least bound gets its full cost,
the first threshold. Then, twice, the pairs that are still below their sample's
threshold are listed, as many at a time as a static shape holds, until none is left:
first for their bounds in all leading coordinates, then for their full costs, which
lower the threshold on the way. When the list is empty, every bound above the threshold
is the certificate: nothing that was not computed could have won. So the numbers in a
`Plan` change the time, never a label; in the worst case every cost is computed.

Notation: ``c`` samples of a chunk, ``k`` components, ``d`` features, ``r`` leading
coordinates, ``p`` pairs listed at a time.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gladjax import routing
from gladjax.assign.info import AssignInfo
from gladjax.assign.marginals import (
    Marginals,
    axes,
    bounds_of_all,
    lowered,
    marginals,
    project,
)
from gladjax.assign.pending import Search, listed, update, wanted
from gladjax.assign.plan import RANK, STAGE, Plan
from gladjax.assign.routed import SLOTS, distances_of_pairs, drain
from gladjax.covariance import PRECISION
from gladjax.mixture import AnyArray, GaussianMixture

CHUNK = 2048  # Samples whose bounds are held at once.
LISTED = 8  # Pairs per sample listed at a time for the second bound.


def pruned(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    limit: Float[AnyArray, " n"] | None = None,
    plan: Plan | None = None,
    chunk: int = CHUNK,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Returns the component of least cost of every sample (Eq. 1), in JAX.

    Runs under ``jit``, ``vmap`` and ``shard_map``. Not differentiable in reverse.

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none.
      limit: Costs above which a component is of no interest; none by default.
      plan: Leading coordinates and the depth of the cascade, see `plan`; chosen without
        looking at the mixture by default.
      chunk: Samples in a chunk.

    Returns:
      The labels of the dense argmin, the first of equals, and the costs ``D_k(u)``;
      label -1 and the limit itself where every component is above it, and where a
      sample is not finite.
    """
    return pruned_info(
        mixture, features, start=start, limit=limit, plan=plan, chunk=chunk
    )[:2]


def pruned_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    limit: Float[AnyArray, " n"] | None = None,
    plan: Plan | None = None,
    chunk: int = CHUNK,
) -> tuple[Int[Array, " n"], Float[Array, " n"], AssignInfo]:
    """Returns what `pruned` returns, with a certificate and counts.

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none.
      limit: Costs above which a component is of no interest; none by default.
      plan: Leading coordinates and the depth of the cascade.
      chunk: Samples in a chunk.

    Returns:
      Labels, costs, and how they came about.

    Raises:
      ValueError: If the shapes do not fit or the chunk is empty.
    """
    features = jnp.asarray(features)
    (n, d), dtype = features.shape, jnp.asarray(mixture.means).dtype
    if d != mixture.means.shape[1]:
        raise ValueError(f"{d} features, but the mixture has {mixture.means.shape[1]}")
    if chunk < 1:
        raise ValueError(f"chunk must be positive, not {chunk}")
    if plan is None:
        plan = Plan(axes(features)[:, : min(RANK, d)].astype(dtype), min(STAGE, d))
    shared = marginals(mixture, plan.basis)
    chunk = min(chunk, max(n, 1))
    missing = -n % chunk
    guess = jnp.full((n,), -1, jnp.int32) if start is None else jnp.asarray(start)
    most = jnp.full((n,), jnp.inf, dtype) if limit is None else jnp.asarray(limit)
    sound = jnp.all(jnp.isfinite(features), axis=1)
    features = jnp.where(sound[:, None], features.astype(dtype), 0)
    parts = (
        jnp.pad(features, ((0, missing), (0, 0))),
        jnp.pad(guess.astype(jnp.int32), (0, missing), constant_values=-1),
        jnp.pad(
            jnp.where(sound, most, -jnp.inf), (0, missing), constant_values=-jnp.inf
        ),
    )
    parts = tuple(a.reshape(-1, chunk, *a.shape[1:]) for a in parts)

    def run(part: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        return _chunk(mixture, shared, plan.stage, *part)

    labels, cost, margin, survivors, evaluated = jax.lax.map(run, parts)
    total = max(n, 1)
    info = AssignInfo(
        margin=margin.reshape(-1)[:n],
        survivors=jnp.sum(survivors) / total,
        evaluated=jnp.sum(evaluated) / total,
        rank=plan.basis.shape[1],
        stage=plan.stage,
    )
    cost = jnp.where(sound, cost.reshape(-1)[:n], most)
    return labels.reshape(-1)[:n], cost, info


def _chunk(
    mixture: GaussianMixture,
    shared: Marginals,
    stage: int,
    samples: Array,
    guess: Array,
    limit: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Returns labels, costs, margins, survivors and full costs of a chunk."""
    c, k = samples.shape[0], shared.constants.shape[0]
    y, lengths = project(shared, samples)
    alive = jnp.isfinite(shared.constants)
    zero = jnp.zeros((), jnp.int32)
    state = Search(
        labels=jnp.full((c,), -1, jnp.int32),
        cost=limit,
        bounds=bounds_of_all(shared, y, lengths, rank=stage),
        open=jnp.broadcast_to(alive[None, :], (c, k)),
        coarse=jnp.full((c, k), stage < shared.basis.shape[1]),
        round=zero,
        survivors=zero,
        evaluated=zero,
    )
    known = (guess >= 0) & alive[guess]
    guess = jnp.where(known, guess, _nearest_mean(shared, y))

    def body(state: Search) -> Search:
        early = state.round < 2
        first = state.round == 0
        owner, component = jax.lax.cond(
            early,
            lambda: _least(state, jnp.where(first, guess, -1)),
            lambda: listed(wanted(state), c),
        )
        distance = distances_of_pairs(mixture, samples, owner, component)
        cost = distance + shared.constants[component]
        state = update(state, owner, component, cost)
        left = jnp.sum(wanted(state), dtype=jnp.int32)
        state = state._replace(
            survivors=jnp.where(state.round == 0, left, state.survivors),
            round=state.round + 1,
        )
        two_stages = stage < shared.basis.shape[1]
        return _refine(state, shared, y, lengths) if two_stages else state

    state = jax.lax.while_loop(lambda state: jnp.any(wanted(state)), body, state)
    others = jnp.arange(k, dtype=jnp.int32)[None, :] != state.labels[:, None]
    margin = jnp.min(jnp.where(others, state.bounds, jnp.inf), axis=1) - state.cost
    margin = jnp.where(state.labels >= 0, margin, 0)
    return state.labels, state.cost, margin, state.survivors, state.evaluated


def _nearest_mean(shared: Marginals, y: Array) -> Int[Array, " c"]:
    """Returns the living component of nearest mean, in the leading coordinates."""
    half = 0.5 * jnp.sum(jnp.square(shared.means), axis=1)
    half = jnp.where(jnp.isfinite(shared.constants), half, jnp.inf)
    gain = jnp.matmul(y, shared.means.T, precision=PRECISION) - half[None, :]
    return jnp.argmax(gain, axis=1).astype(jnp.int32)


def _least(state: Search, guess: Array) -> tuple[Array, Array]:
    """Returns one pair per sample: the guess, else the one of least bound."""
    c = guess.shape[0]
    own = jnp.arange(c, dtype=jnp.int32)
    nearest = jnp.where(state.open, state.bounds, jnp.inf)
    component = jnp.argmin(nearest, axis=1).astype(jnp.int32)
    component = jnp.where(guess >= 0, guess, component)
    hopeful = jnp.take_along_axis(wanted(state), component[:, None], axis=1)[:, 0]
    return own, jnp.where(hopeful, component, -1)


def _refine(state: Search, shared: Marginals, y: Array, lengths: Array) -> Search:
    """Raises the bounds that are below the threshold to those of all coordinates."""
    c, k = state.bounds.shape
    norms = jnp.sqrt(jnp.sum(jnp.square(shared.factors), axis=(1, 2)))

    def rough(carry: tuple[Array, Array]) -> Array:
        bounds, coarse = carry
        return coarse & wanted(state._replace(bounds=bounds))

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        bounds, coarse = carry
        owner, component = listed(rough(carry), LISTED * c)

        def visit(slots: Array, filled: Array, group: Array) -> Array:
            own = owner[slots]
            e = y[own] - shared.means[group][:, None, :]
            e = jnp.where(filled[:, :, None], e, 0)
            factors = shared.factors[group]
            z = jnp.einsum("bsr,btr->bst", e, factors, precision=PRECISION)
            error = lengths[own] + shared.lengths[group][:, None]
            error = error * norms[group][:, None]
            return lowered(jnp.sum(jnp.square(z), axis=2), error)

        routed = routing.blocks(component, k, size=SLOTS)
        bound = drain(visit, routed, owner.shape[0], bounds.dtype)
        bound = bound + shared.constants[component]
        column = jnp.where(component < 0, k, component)
        bounds = bounds.at[owner, column].max(bound, mode="drop")
        return bounds, coarse.at[owner, column].set(False, mode="drop")

    start = (state.bounds, state.coarse)
    bounds, coarse = jax.lax.while_loop(
        lambda carry: jnp.any(rough(carry)), body, start
    )
    return state._replace(bounds=bounds, coarse=coarse)
