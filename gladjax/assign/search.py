"""The search of a chunk of samples: bounds of all costs, then the costs that matter.

One matrix product bounds the costs of all components (`gladjax.assign.bounds`). A pair
of a sample and a component is *open* while its bound is not above the sample's
threshold, the least cost known so far. The lowest open pairs of each sample are listed,
a few at first and then more and more, as many at a time as a static shape holds; where
there are tighter bounds, they get these; and those that are still open and not above
any bound that was passed over get their exact costs (`gladjax.assign.exact`), which
lower the threshold. So few costs are computed but those that must be: those whose bound
is below the least cost. When no pair is open, every bound that is left is a
certificate: nothing that was not computed is within reach. In the worst case every cost
is computed.

Notation: ``c`` samples of a chunk, ``k`` components, ``d`` features, ``p`` pairs listed
at a time, ``g`` groups of components.

Differs from the reference in: nothing that shows; the paper computes all the costs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gladjax import devices, routing
from gladjax.assign.bounds import Bounds, lower, lower_of_pairs, monomials
from gladjax.assign.exact import distances_of_pairs
from gladjax.mixture import GaussianMixture

MOST = 8  # Pairs of a sample that are listed first, where samples are few.
MANY = 256  # Components that are many.
GROUPS = 64  # Groups of components whose least bounds tell which pairs are low.
GROUP = 64  # Pairs that are counted together when open ones are listed,
PART = 8  # and then in parts of so many.


class Found(NamedTuple):
    """What is known of the costs of a chunk of samples.

    Attributes:
      exact: Costs that were computed, infinite elsewhere.
      low: Bounds of the others, infinite where the cost was computed.
      best: Least cost of each sample, or its limit.
      label: Its component, the first of equals; -1 where every cost is above the limit.
      survivors: Pairs left open by the first costs.
      evaluated: Costs computed.
    """

    exact: Float[Array, "k c"]
    low: Float[Array, "k c"]
    best: Float[Array, " c"]
    label: Int[Array, " c"]
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
    c = samples.shape[0]
    padded = -c % GROUP
    if padded:
        pad = ((0, padded), (0, 0))
        guess = None if guess is None else jnp.pad(guess, (0, padded))
        limit = None if limit is None else jnp.pad(limit, (0, padded))
        addends = addends if addends.shape[1] == 1 else jnp.pad(addends, pad[::-1])
        samples = jnp.pad(samples, pad, constant_values=jnp.nan)
    state, samples = _bounded(bounds, samples, addends, limit)
    given = _Given(mixture, bounds, samples, addends, reach)
    n, tight, few = samples.shape[0], given.tight, given.listed
    size = n if tight else few * n

    def begin(state: Found) -> tuple[Array, Array]:
        own, more = jnp.arange(n, dtype=jnp.int32), (0, size - n)
        first = routing.least(state.low)[1]
        if guess is not None:
            known = jnp.isfinite(state.low[jnp.maximum(guess, 0), own])
            first = jnp.where((guess >= 0) & known, guess, first)
        low = state.low[first, own]
        first = jnp.where((low <= state.best + reach) & (low < jnp.inf), first, -1)
        return jnp.pad(own, more), jnp.pad(first, more, constant_values=-1)

    def more(carry: tuple[Found, Array, Array]) -> tuple[Found, Array, Array]:
        state, i, left = carry
        passed = jnp.full_like(state.best, jnp.inf)
        if not tight:  # Where not all can be listed, the lowest ones are.
            count = jnp.where(left > size, few << jnp.minimum(i, 16), 0)
            passed = _level(state.low, count)

        def following(state: Found) -> tuple[Array, Array]:
            return listed(_open(state, reach) & (state.low <= passed[None, :]), size)

        if tight or guess is not None:
            pairs = jax.lax.cond(i == 0, begin, following, state)
            passed = jnp.where(i == 0, jnp.inf, passed)
        else:
            pairs = following(state)
        guesses = (i == 0) & (guess is not None)
        state = _taken(state, given, pairs, passed, guesses)
        left = jnp.sum(_counted(_open(state, reach)), dtype=jnp.int32)
        survivors = jnp.where(i == 0, left, state.survivors)
        return state._replace(survivors=survivors), i + 1, left

    zero = jnp.zeros((), jnp.int32)
    left = jnp.sum(_counted(_open(state, reach)), dtype=jnp.int32)
    state = jax.lax.while_loop(lambda carry: carry[2] > 0, more, (state, zero, left))[0]
    return state._replace(
        exact=state.exact[:, :c],
        low=state.low[:, :c],
        best=state.best[:c],
        label=jnp.where(state.label < state.low.shape[0], state.label, -1)[:c],
    )


class _Given(NamedTuple):
    """What a search does not change."""

    mixture: GaussianMixture
    bounds: Bounds
    samples: Float[Array, "c d"]
    addends: Float[Array, "k _c"]
    reach: float

    @property
    def tight(self) -> bool:
        """Whether bounds are the costs, but for rounding: the least comes first."""
        return self.bounds.coordinates.basis.shape[1] == self.samples.shape[1]

    @property
    def listed(self) -> int:
        """How many pairs of a sample are listed first.

        Where samples are few, a round takes about as long however few it lists. Of many
        components many pairs are open, of those that changed lately few.
        """
        if self.bounds.ids is not None:
            return 1
        known, n = devices.sizes(), max(self.samples.shape[0], 1)
        many = self.bounds.fine is not None and len(self.bounds.margin) >= MANY
        return max(known.listed, MOST if many else min(MOST, known.chunk // n))

    @property
    def turns(self) -> int:
        """With two, the lowest pair of a sample gets its cost before the others.

        Of what is within reach most must be computed anyhow, if costs are not dear.
        """
        cheap = self.reach > 0 and self.samples.shape[1] < devices.sizes().wide
        return 1 if self.tight or cheap else 2


def _open(state: Found, reach: float) -> Bool[Array, "k c"]:
    """Returns the pairs that may be within reach of the least cost."""
    top = state.best + reach
    return (state.low <= top[None, :]) & (state.low < jnp.inf)


def _level(low: Float[Array, "k c"], count: Array) -> Float[Array, " c"]:
    """Returns a bound that some bounds of each sample, ``count`` or more, are within.

    It is the ``count``-th of the least bounds of `GROUPS` groups of components, the
    last one if there are fewer; infinite if ``count`` is 0.
    """
    groups = _groups(low.shape[0])
    each = low.shape[0] // groups
    first = low[: groups * each].reshape(groups, each, -1)
    minima, rest = jnp.min(first, axis=1), low[groups * each :]
    minima = minima.at[: rest.shape[0]].min(rest)

    def drop(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        value = jnp.min(carry[0], axis=0)
        return jnp.where(carry[0] <= value[None, :], jnp.inf, carry[0]), value

    none = jnp.full(low.shape[1:], jnp.inf, low.dtype)
    return jax.lax.fori_loop(0, jnp.minimum(count, groups), drop, (minima, none))[1]


def _groups(k: int) -> int:
    """Returns into how many groups of like size so many components are divided."""
    even = (n for n in range(GROUPS, GROUPS // 2, -1) if k % n == 0)
    return next(even, GROUPS) if k > GROUPS else k


def _bounded(
    bounds: Bounds, samples: Array, addends: Array, limit: Array | None
) -> tuple[Found, Array]:
    """Returns what the bounds alone say, and the samples without what is not finite."""
    sound = jnp.all(jnp.isfinite(samples), axis=1)
    samples = jnp.where(sound[:, None], samples, 0)
    low = lower(bounds, monomials(bounds.coordinates, samples)) + addends
    low = _rounded_down(low)
    low = jnp.where(jnp.isfinite(addends) & sound[None, :], low, jnp.inf)
    best = jnp.full(sound.shape, jnp.inf, low.dtype) if limit is None else limit
    label = jnp.full(sound.shape, low.shape[0], jnp.int32)
    exact = jnp.full_like(low, jnp.inf)
    if bounds.precise is not None:
        exact = jnp.where(bounds.precise[:, None], low, jnp.inf)
        low = jnp.where(bounds.precise[:, None], jnp.inf, low)
        known, first = routing.least(exact)
        label = jnp.where((known <= best) & (known < jnp.inf), first, label)
        best = jnp.minimum(best, known)
    zero = jnp.zeros((), jnp.int32)
    return Found(exact, low, best, label, zero, zero), samples


def _taken(
    state: Found,
    given: _Given,
    pairs: tuple[Int[Array, " p"], Int[Array, " p"]],
    passed: Float[Array, " c"],
    guesses: Bool[Array, ""],
) -> Found:
    """Takes some pairs into account.

    Args:
      state: What is known.
      given: The mixture and the samples.
      pairs: Sample and component of each; component -1 is no pair.
      passed: A bound that all open pairs that are not listed are above.
      guesses: Whether these are guesses, whose costs are computed anyhow.

    Returns:
      What is known then.
    """
    (owner, component), (k, _) = pairs, state.low.shape
    at = jnp.maximum(component, 0)
    named = component if given.bounds.ids is None else given.bounds.ids[at]
    add = given.addends[at, owner if given.addends.shape[1] > 1 else 0]
    low = jnp.where(component >= 0, state.low[at, owner], jnp.inf)
    if given.bounds.fine is not None:
        some = jnp.where(guesses, -1, component)  # Of no pair there is no bound.
        finer = lower_of_pairs(given.bounds.fine, given.samples, owner, some)
        low = jnp.where(guesses, low, jnp.maximum(low, _rounded_down(finer + add)))

    def turn(i: Array, carry: tuple[Found, Array, Array]) -> tuple[Found, Array, Array]:
        known, low, exact = carry
        top = jnp.minimum(known.best + given.reach, passed)
        if given.turns > 1:
            lowest = jnp.full_like(top, jnp.inf).at[owner].min(low)
            top = jnp.where(i == 0, jnp.minimum(lowest, top), top)
        chosen = (low <= top[owner]) & (low < jnp.inf)
        some = jnp.where(chosen, named, -1)
        cost = add + distances_of_pairs(given.mixture, given.samples, owner, some)
        cost = jnp.where(chosen & ~jnp.isnan(cost), cost, jnp.inf)
        best = known.best.at[owner].min(cost)
        wins = (cost <= best[owner]) & (cost < jnp.inf)
        label = jnp.full_like(known.label, k)
        label = label.at[owner].min(jnp.where(wins, component, k))
        before = jnp.where(best < known.best, k, known.label)
        known = known._replace(
            best=best,
            label=jnp.minimum(label, before),
            evaluated=known.evaluated + jnp.sum(chosen, dtype=jnp.int32),
        )
        return known, jnp.where(chosen, jnp.inf, low), jnp.minimum(exact, cost)

    # What is large stays out of the loop.
    small = state._replace(exact=jnp.zeros(()), low=jnp.zeros(()))
    carry = (small, low, jnp.full_like(low, jnp.inf))
    known, low, exact = jax.lax.fori_loop(0, given.turns, turn, carry)
    row = jnp.where(component >= 0, component, k)
    return known._replace(
        exact=state.exact.at[row, owner].set(exact, mode="drop"),
        low=state.low.at[row, owner].set(low, mode="drop"),
    )


def _rounded_down(low: Array) -> Array:
    """The last rounding, that of a sum."""
    return low - 2 * jnp.finfo(low.dtype).eps * jnp.abs(low)


def _counted(mask: Bool[Array, "k c"]) -> Int[Array, "k g"]:
    """Returns how many pairs of each group a mask holds; ``c`` is a multiple of 64.

    Bytes, in three dimensions: so a CPU compares and counts at once, without an array
    of four times the size between.
    """
    grouped = mask.reshape(mask.shape[0], -1, GROUP)
    return jnp.sum(grouped, axis=2, dtype=jnp.uint8).astype(jnp.int32)


def _running(counts: Int[Array, "r g"]) -> Int[Array, "r g"]:
    """Returns the running sums of rows of small integers: a matrix product, exactly."""
    upper = jnp.triu(jnp.ones((counts.shape[1],) * 2, jnp.float32))
    return jnp.matmul(counts.astype(jnp.float32), upper).astype(jnp.int32)


def _place(
    counts: Int[Array, "n g"], rank: Int[Array, " n"]
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Returns where in rows of counts a rank falls, and what of it is left there."""
    running = _running(counts)
    before = running <= rank[:, None]
    place = jnp.sum(before, axis=1, dtype=jnp.int32)
    return place, rank - jnp.sum(jnp.where(before, counts, 0), axis=1, dtype=jnp.int32)


def listed(mask: Bool[Array, "k c"], size: int) -> tuple[Array, Array]:
    """Lists the first pairs of a mask, component after component.

    Args:
      mask: Pairs; ``c`` is a multiple of `GROUP`.
      size: How many to list.

    Returns:
      Samples, and components; component -1 where there are no more.
    """
    c = mask.shape[1]
    counts = _counted(mask)
    along = _running(counts)
    rows = along[:, -1]
    before = jnp.cumsum(rows, dtype=jnp.int32) - rows
    ends = (before[:, None] + along).ravel()
    counts, grouped = counts.ravel(), mask.reshape(-1, GROUP)
    place = jnp.arange(size, dtype=jnp.int32)
    at = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
    at = jnp.minimum(at, grouped.shape[0] - 1)
    rank = place - (ends - counts)[at]
    # The rank-th pair of its group: first the part that it is in, then its place there.
    own = grouped[at].reshape(size, GROUP // PART, PART)
    part, rank = _place(jnp.sum(own, axis=2, dtype=jnp.int32), rank)
    at = at * (GROUP // PART) + part
    own = grouped.reshape(-1, PART).at[at].get(mode="clip")
    index = at * PART + _place(own.astype(jnp.int32), rank)[0]
    inside = place < ends[-1]
    owner = jnp.where(inside, index % c, 0)
    return owner, jnp.where(inside, index // c, -1)
