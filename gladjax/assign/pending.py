"""What the pruned assignment in JAX knows of a chunk of samples, and what is pending.

Notation: ``c`` samples of a chunk, ``k`` components.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax.assign.bounds import RAISE


class Search(NamedTuple):
    """What is known of the samples of a chunk.

    Attributes:
      labels: Best component so far, -1 for none.
      cost: Its cost, or the limit.
      bounds: Lower bounds of all costs; the costs themselves where computed.
      open: Pairs whose full cost is not computed.
      coarse: Pairs whose bound is of the first kind.
      round: Full costs were computed so many times.
      survivors: Pairs left by the first bounds.
      evaluated: Full costs so far.
    """

    labels: Int[Array, " c"]
    cost: Float[Array, " c"]
    bounds: Float[Array, "c k"]
    open: Bool[Array, "c k"]
    coarse: Bool[Array, "c k"]
    round: Int[Array, ""]
    survivors: Int[Array, ""]
    evaluated: Int[Array, ""]


def wanted(state: Search) -> Bool[Array, "c k"]:
    """Tells which open pairs may still win.

    Args:
      state: What is known.

    Returns:
      True where a bound is not above the threshold.
    """
    eps = np.finfo(state.cost.dtype).eps
    raised = state.cost + RAISE[np.dtype(state.cost.dtype)]
    raised = raised + 10 * eps * jnp.abs(state.cost)
    raised = jnp.where(jnp.isfinite(state.cost), raised, state.cost)
    return state.open & (state.bounds <= raised[:, None])


def listed(mask: Bool[Array, "c k"], size: int) -> tuple[Array, Array]:
    """Lists the first pairs of a mask.

    Args:
      mask: Pairs.
      size: How many to list.

    Returns:
      Samples, and components; component -1 where there are no more.
    """
    c, k = mask.shape
    index = jnp.nonzero(mask.ravel(), size=size, fill_value=c * k)[0]
    index = index.astype(jnp.int32)
    inside = index < c * k
    owner = jnp.where(inside, index // k, 0)
    return owner, jnp.where(inside, index % k, -1)


def update(state: Search, owner: Array, component: Array, cost: Array) -> Search:
    """Takes the full costs of some pairs into account.

    Args:
      state: What was known.
      owner: Sample of each pair.
      component: Component of each pair, -1 for no pair.
      cost: Its cost.

    Returns:
      What is known now.
    """
    c, k = state.bounds.shape
    taken = component >= 0
    value = jnp.where(taken & ~jnp.isnan(cost), cost, jnp.inf)
    best = state.cost.at[owner].min(value)
    wins = taken & (value == best[owner])
    winner = jnp.full((c,), k, jnp.int32)
    winner = winner.at[owner].min(jnp.where(wins, component, k))
    # The first of equals; a limit that is met is no component.
    old = jnp.where((state.labels >= 0) & (state.cost == best), state.labels, k)
    label = jnp.minimum(winner, old)
    column = jnp.where(taken, component, k)
    return state._replace(
        labels=jnp.where(label < k, label, -1),
        cost=best,
        bounds=state.bounds.at[owner, column].set(value, mode="drop"),
        open=state.open.at[owner, column].set(False, mode="drop"),
        evaluated=state.evaluated + jnp.sum(taken, dtype=jnp.int32),
    )
