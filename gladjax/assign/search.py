"""The search of a chunk of samples: bounds of all costs, then the costs that matter.

One matrix product bounds the costs of all components (`gladjax.assign.bounds`). The
component of least bound, or a guess, gets its exact cost, the first threshold. Then the
*open* pairs, whose bound is not above their sample's threshold, are listed, as many at
a time as a static shape holds, and get their exact costs (`gladjax.assign.exact`),
which lower the threshold on the way, until none is open. Then every bound that is left
is a certificate: nothing that was not computed is within reach. In the worst case every
cost is computed.

Notation: ``c`` samples of a chunk, ``k`` components, ``d`` features, ``p`` pairs listed
at a time.

Differs from the reference in: nothing that shows; the paper computes all the costs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gladjax.assign.bounds import Bounds, lower, monomials
from gladjax.assign.exact import distances_of_pairs
from gladjax.mixture import GaussianMixture

GUESSES = (
    3  # Pairs of least bound that each sample computes before open ones are listed.
)
GROUP = 64  # Pairs that are counted together when open ones are listed.


class Found(NamedTuple):
    """What is known of the costs of a chunk of samples.

    Attributes:
      exact: Costs that were computed, infinite elsewhere.
      low: Bounds of the others, infinite where the cost was computed.
      best: Least cost of each sample, or its limit.
      survivors: Pairs left open by the first cost.
      evaluated: Costs computed.
    """

    exact: Float[Array, "k c"]
    low: Float[Array, "k c"]
    best: Float[Array, " c"]
    survivors: Int[Array, ""]
    evaluated: Int[Array, ""]


def search(
    mixture: GaussianMixture,
    bounds: Bounds,
    samples: Float[Array, "c d"],
    addends: Float[Array, "k _c"],
    *,
    guess: Int[Array, " c"] | None = None,
    limit: Float[Array, " c"] | None = None,
    reach: float = 0.0,
) -> Found:
    """Computes all costs within reach of the least.

    Args:
      mixture: The mixture.
      bounds: Its bounds.
      samples: Samples; those that are not finite have no cost.
      addends: What a component adds to the distance, one column for all samples or one
        for each; infinite where a component is out of the question.
      guess: A component for each sample, -1 for none.
      limit: Costs above which a component is of no interest.
      reach: Costs further than this from the least one are of no interest.

    Returns:
      The costs.
    """
    c, d = samples.shape
    padded = -c % GROUP
    if padded:
        pad = ((0, padded), (0, 0))
        guess = None if guess is None else jnp.pad(guess, (0, padded))
        limit = None if limit is None else jnp.pad(limit, (0, padded))
        addends = addends if addends.shape[1] == 1 else jnp.pad(addends, pad[::-1])
        samples = jnp.pad(samples, pad, constant_values=jnp.nan)
    state, samples = _bounded(bounds, samples, addends, limit)
    own = jnp.arange(samples.shape[0], dtype=jnp.int32)
    first = least(state.low)[1]
    if guess is not None:
        known = jnp.isfinite(state.low[jnp.maximum(guess, 0), own])
        first = jnp.where((guess >= 0) & known, guess, first)

    def take(state: Found, owner: Array, component: Array) -> Found:
        distance = distances_of_pairs(mixture, samples, owner, component)
        column = owner if addends.shape[1] > 1 else 0
        cost = distance + addends[jnp.maximum(component, 0), column]
        return _taken(state, owner, component, cost)

    def is_open(state: Found) -> Bool[Array, "k c"]:
        top = state.best + reach
        return (state.low <= top[None, :]) & (state.low < jnp.inf)

    def one_each(state: Found, component: Array) -> tuple[Array, Array]:
        bound = state.low[component, own]
        hopeful = (bound <= state.best + reach) & (bound < jnp.inf)
        return own, jnp.where(hopeful, component, -1)

    rounds = 1
    if guess is None and bounds.coordinates.basis.shape[1] < d:
        rounds += GUESSES

    def more(carry: tuple[Found, Array]) -> tuple[Found, Array]:
        state, i = carry
        owner, component = jax.lax.cond(
            i < rounds,
            lambda: one_each(state, jnp.where(i == 0, first, least(state.low)[1])),
            lambda: listed(is_open(state), samples.shape[0]),
        )
        state = take(state, owner, component)
        left = jnp.sum(is_open(state), dtype=jnp.int32)
        survivors = jnp.where(i == 0, left, state.survivors)
        return state._replace(survivors=survivors), i + 1

    def unfinished(carry: tuple[Found, Array]) -> Array:
        return jnp.any(is_open(carry[0]))

    zero = jnp.zeros((), jnp.int32)
    state, _ = jax.lax.while_loop(unfinished, more, (state, zero))
    return state._replace(
        exact=state.exact[:, :c], low=state.low[:, :c], best=state.best[:c]
    )


def _bounded(
    bounds: Bounds, samples: Array, addends: Array, limit: Array | None
) -> tuple[Found, Array]:
    """Returns what the bounds alone say, and the samples without what is not finite."""
    sound = jnp.all(jnp.isfinite(samples), axis=1)
    samples = jnp.where(sound[:, None], samples, 0)
    low = lower(bounds, monomials(bounds.coordinates, samples)) + addends
    # The last rounding: that of the sum.
    low = low - 2 * jnp.finfo(low.dtype).eps * jnp.abs(low)
    low = jnp.where(jnp.isfinite(addends) & sound[None, :], low, jnp.inf)
    best = jnp.full(sound.shape, jnp.inf, low.dtype) if limit is None else limit
    exact = jnp.full_like(low, jnp.inf)
    if bounds.precise is not None:
        exact = jnp.where(bounds.precise[:, None], low, jnp.inf)
        best = jnp.minimum(best, jnp.min(exact, axis=0))
        low = jnp.where(bounds.precise[:, None], jnp.inf, low)
    zero = jnp.zeros((), jnp.int32)
    return Found(exact, low, best, zero, zero), samples


def _taken(state: Found, owner: Array, component: Array, cost: Array) -> Found:
    """Takes the costs of some pairs into account; component -1 is no pair."""
    taken = component >= 0
    cost = jnp.where(taken & ~jnp.isnan(cost), cost, jnp.inf)
    row = jnp.where(taken, component, state.low.shape[0])
    return state._replace(
        exact=state.exact.at[row, owner].set(cost, mode="drop"),
        low=state.low.at[row, owner].set(jnp.inf, mode="drop"),
        best=state.best.at[owner].min(cost),
        evaluated=state.evaluated + jnp.sum(taken, dtype=jnp.int32),
    )


def least(costs: Float[Array, "k c"]) -> tuple[Float[Array, " c"], Int[Array, " c"]]:
    """Returns the least cost of each column and its row, the first of equals.

    Two reductions along the leading axis, which vectorise, where ``argmin`` does not.
    """
    k = costs.shape[0]
    best = jnp.min(costs, axis=0)
    row = jnp.arange(k, dtype=jnp.int32)[:, None]
    at = jnp.min(jnp.where(costs == best[None, :], row, k), axis=0)
    return best, jnp.minimum(at, k - 1).astype(jnp.int32)


def listed(mask: Bool[Array, "k c"], size: int) -> tuple[Array, Array]:
    """Lists the first pairs of a mask, component after component.

    Args:
      mask: Pairs; ``c`` is a multiple of `GROUP`.
      size: How many to list.

    Returns:
      Samples, and components; component -1 where there are no more.
    """
    c = mask.shape[1]
    grouped = mask.reshape(-1, GROUP)
    counts = jnp.sum(grouped, axis=1, dtype=jnp.int32)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    place = jnp.arange(size, dtype=jnp.int32)
    at = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
    at = jnp.minimum(at, grouped.shape[0] - 1)
    rank = place - (ends - counts)[at]
    # The place of the rank-th pair of its group: how many running counts are not above.
    running = jnp.matmul(
        grouped[at].astype(jnp.float32), jnp.triu(jnp.ones((GROUP, GROUP), jnp.float32))
    )
    within = jnp.sum(running <= rank[:, None].astype(jnp.float32), axis=1)
    index = at * GROUP + within.astype(jnp.int32)
    inside = place < ends[-1]
    owner = jnp.where(inside, index % c, 0)
    return owner, jnp.where(inside, index // c, -1)
