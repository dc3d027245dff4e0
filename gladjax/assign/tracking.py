"""Assignments kept up while few components change.

Late in a fit few samples change their component, so few components change at all, and
most of what the last assignment proved still holds. `Known` keeps of each sample its
component, its cost, and a bound ``rest`` that the cost of no other component is below.
When some components have changed,

  * a component that has not has the costs that it had: the sample's own is known, any
    other is not below ``rest``;
  * those that have are searched as ever, and only for what matters: costs below the
    sample's own one, or below ``rest`` where its own component is among them;
  * a sample whose components that have changed are all above ``rest``, its own one too,
    is looked at anew among all components.

So the labels are those of the dense argmin, as those of a whole search are, and a step
costs little more than the share of the components that changed. Components are looked
at `WIDTH` at a time: one program serves any number of them.

Notation: ``n`` samples, ``k`` components, ``w`` of which are looked at, ``d`` features.

Differs from the reference in: nothing that shows; the paper computes all the costs.

Reference: for bounds that outlive a step of k-means, Hamerly, "Making k-means even
faster", SDM 2010.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import programs
from gladjax.assign.bounds import Bounds, among
from gladjax.assign.nearest import assigned
from gladjax.mixture import GaussianMixture

WIDTH = 128  # Components that are looked at together.


class Known(NamedTuple):
    """What an assignment proved.

    Attributes:
      labels: Component of each sample, -1 where there is none.
      costs: Its cost.
      rest: What the cost of no other component is below; -inf where that is not known.
    """

    labels: Int[Array, " n"]
    costs: Float[Array, " n"]
    rest: Float[Array, " n"]


def updated(
    mixture: GaussianMixture,
    bounds: Bounds,
    features: Float[Array, "n d"],
    known: Known,
    changed: Bool[np.ndarray, " k"],
    used: Bool[Array, " n"],
) -> tuple[Known, Float[np.ndarray, " 2"]]:
    """Assigns samples to a mixture of which some components changed.

    Args:
      mixture: The mixture; those that have not changed have the weights of before.
      bounds: Its bounds.
      features: Samples.
      known: The assignment to the mixture of before.
      changed: Which components changed.
      used: Which samples count.

    Returns:
      The assignment to this mixture; survivors and full costs per sample.
    """
    own, seen = known.labels, np.zeros(2)
    state = _begun(known, jnp.asarray(changed))
    chosen = np.flatnonzero(changed).astype(np.int32)
    for first in range(0, len(chosen), WIDTH):
        ids = chosen[first : first + WIDTH]
        none = (0, WIDTH - len(ids))
        ids = np.pad(ids, none, constant_values=len(changed))
        state, counts = _among(mixture, bounds, features, state, own, used, ids)
        seen += np.asarray(counts, np.float64)
    rows, count = _left(state, used)
    if int(count):
        state, counts = _anew(mixture, bounds, features, state, own, rows, count)
        seen += np.asarray(counts, np.float64)
    return state, seen


@programs.Program
def _begun(known: Known, changed: Array) -> Known:
    """Forgets the costs of what changed."""
    lost = changed[known.labels] & (known.labels >= 0)
    labels = jnp.where(lost, -1, known.labels)
    return Known(labels, jnp.where(lost, known.rest, known.costs), known.rest)


@programs.Program
def _among(
    mixture: GaussianMixture,
    bounds: Bounds,
    features: Array,
    state: Known,
    own: Array,
    used: Array,
    ids: Array,
) -> tuple[Known, Array]:
    """Looks for lower costs among the components ``ids``; ``own`` are guesses."""
    none = bounds.coefficients.shape[0]
    place = jnp.full((none + 1,), -1, jnp.int32)
    place = place.at[ids].set(jnp.arange(len(ids), dtype=jnp.int32)).at[none].set(-1)
    found, cost, info = assigned(
        mixture,
        among(bounds, ids),
        features,
        start=place[own],
        limit=jnp.where(used, state.costs, -jnp.inf),
        certify=True,
    )
    label = jnp.where(found >= 0, ids[found], -1)
    # Of equal costs the first component's counts.
    first = (state.labels >= 0) & (label < state.labels)
    better = (found >= 0) & ((cost < state.costs) | ((cost == state.costs) & first))
    others = jnp.where(better | (found < 0), cost + info.margin, cost)
    passed = jnp.where(better & (state.labels >= 0), state.costs, jnp.inf)
    rest = jnp.minimum(jnp.minimum(others, passed), state.rest)
    after = Known(
        jnp.where(better, label, state.labels),
        jnp.where(better, cost, state.costs),
        jnp.where(used, rest, state.rest),
    )
    return after, jnp.stack([info.survivors, info.evaluated])


@programs.Program
def _left(state: Known, used: Array) -> tuple[Array, Array]:
    """Returns all samples, those that are not decided first, and the number of them."""
    left = used & (state.labels < 0)
    rows = jnp.argsort(~left, stable=True).astype(jnp.int32)
    return rows, jnp.sum(left, dtype=jnp.int32)


@programs.Program
def _anew(
    mixture: GaussianMixture,
    bounds: Bounds,
    features: Array,
    state: Known,
    own: Array,
    rows: Array,
    count: Array,
) -> tuple[Known, Array]:
    """Looks among all components for those of the first ``count`` of ``rows``."""
    left = jnp.arange(len(rows), dtype=jnp.int32) < count
    label, cost, info = assigned(
        mixture,
        bounds,
        features,
        start=own[rows],
        limit=jnp.where(left, jnp.inf, -jnp.inf).astype(features.dtype),
        certify=True,
        rows=rows,
    )
    at = jnp.where(left, rows, len(rows))
    new = Known(label, cost, cost + info.margin)
    parts = (a.at[at].set(b, mode="drop") for a, b in zip(state, new, strict=True))
    return Known(*parts), jnp.stack([info.survivors, info.evaluated])
