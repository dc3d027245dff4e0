"""The two steps of K-MLE on samples wherever they lie.

`Steps` is what `gladjax.kmle.fit` hands to `gladjax.iteration.iterate`: the assignment
of every sample (Eq. 1) and the fit of every component (Eqs. 2, 3, 9), as two programs
on samples that lie on the device, or slice by slice on samples that do not.

Notation: ``n`` samples, ``k`` components, ``d`` features.

Differs from the reference in: nothing, see `gladjax.kmle`.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax import assign, estimation, mixture, programs, samples
from gladjax.assign import Bounds
from gladjax.covariance import Shrinkage
from gladjax.iteration import Row
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.samples import Samples

ENTRIES = 1 << 22  # Numbers of inverses that there is always room for.
SUMMED = 4096  # Costs that are added in the precision of the samples.


class Steps:
    """The two steps for `iteration.iterate`.

    Args:
      given: The samples.
      num_components: Number of components ``k``.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
    """

    def __init__(
        self, given: Samples, num_components: int, min_count: int, shrinkage: Shrinkage
    ) -> None:
        """Keeps what all steps share."""
        self._given, self._k = given, num_components
        self._options = {"min_count": min_count, "shrinkage": shrinkage}
        self._entries = -1
        self._count = int(np.sum(np.asarray(given.used)))

    def __call__(
        self, state: tuple[GaussianMixture, AnyArray]
    ) -> tuple[tuple[GaussianMixture, AnyArray], Row]:
        """Assigns every sample, then fits every component."""
        old, labels = state
        given = self._given
        if given.resident:
            bounds = assign.prepared(old, given.axes)
            found = _search(old, bounds, given.features, given.used, labels, 0)
            new, _, sums, numbers = found
        else:
            new, sums, numbers = self._streamed(old, labels)
        moved, survivors, evaluated = np.asarray(numbers, np.float64).tolist()
        cost = float(np.sum(np.asarray(sums, np.float64))) / self._count
        fitted = self.estimate(old, new)
        alive = int(np.isfinite(np.asarray(fitted.log_weights)).sum())
        share = self._count / len(given.used)
        row = Row(cost, alive, int(moved), survivors / share, evaluated / share)
        return (fitted, new), row

    def costs(self, old: GaussianMixture) -> Float[Array, " n"]:
        """Returns the least cost of each sample, which must be on the device."""
        given = self._given
        none = jnp.full(given.used.shape, -1, jnp.int32)
        bounds = assign.prepared(old, given.axes)
        return _search(old, bounds, given.features, given.used, none, 0)[1]

    def estimate(
        self, old: GaussianMixture | None, labels: AnyArray
    ) -> GaussianMixture:
        """Fits every component.

        Args:
          old: A mixture whose arrays are used again, and lost; or None.
          labels: Component of each sample, -1 for those that do not count.

        Returns:
          The mixture; dropped components have weight 0.
        """
        given, k = self._given, self._k
        d = given.features.shape[1]
        if not given.resident:
            return estimation.maximize_streamed(
                given.features,
                np.asarray(labels),
                k,
                floor=given.floor,
                exponent=given.exponent,
                **self._options,
            )
        labels = jnp.asarray(labels)
        needed = int(_needed(labels, k, d))
        if needed > self._entries:
            # A power of two, so that few programs are compiled.
            most = estimation.most_room(len(given.used), k, d)[1]
            self._entries = min(max(ENTRIES, 1 << needed.bit_length()), most)
            old = None
        rows = min(len(given.used), k * d)
        if old is None:
            old = mixture.blank(k, d, rows, self._entries, given.features.dtype)
        return _reestimate(old, given.features, labels, given.floor, **self._options)

    def restored(
        self, fitted: GaussianMixture, history: Float[np.ndarray, "t 5"]
    ) -> tuple[GaussianMixture, Float[np.ndarray, "t 5"]]:
        """Returns mixture and history in the scale in which the samples came.

        Args:
          fitted: A mixture of the samples as they are multiplied inside.
          history: Per step, the log-likelihood first; it is not changed, since
            snapshots keep it.
        """
        exponent = self._given.scaled
        if not exponent:
            return fitted, history
        history = history.copy()
        history[:, 0] += exponent * self._given.features.shape[1] * math.log(2)
        return mixture.rescaled(fitted, -exponent), history

    def _streamed(
        self, old: GaussianMixture, labels: AnyArray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Assigns samples slice by slice."""
        given = self._given
        found, sums, numbers, first = [], [], [], 0
        old = jax.tree.map(jnp.asarray, old)
        bounds = assign.prepared(old, given.axes)
        for x, used in samples.slices(given.features, given.used):
            guess = np.full(len(x), -1, np.int32)
            own = np.asarray(labels[first : first + len(x)])
            guess[: len(own)] = own
            new, _, some, seen = _search(old, bounds, x, used, guess, given.exponent)
            found.append(np.asarray(new))
            sums.append(np.asarray(some))
            numbers.append(np.asarray(seen, np.float64) * [1, len(x), len(x)])
            first += len(x)
        total = np.sum(numbers, axis=0) / [1, len(given.used), len(given.used)]
        return np.concatenate(found)[: len(given.used)], np.concatenate(sums), total


@partial(programs.Program, static=("exponent",))
def _search(
    old: GaussianMixture,
    bounds: Bounds,
    features: Array,
    used: Array,
    labels: Array,
    exponent: int,
) -> tuple[Array, Array, Array, Array]:
    """The E-step: labels, costs, their sums; labels moved, survivors, evaluated."""
    features = jnp.ldexp(features, exponent) if exponent else features
    limit = jnp.where(used, jnp.inf, -jnp.inf).astype(features.dtype)
    new, cost, info = assign.assigned(old, bounds, features, start=labels, limit=limit)
    new = jnp.where(used, new, -1)
    cost = jnp.where(used, cost, 0)
    missing = -cost.shape[0] % SUMMED
    sums = jnp.sum(jnp.pad(cost, (0, missing)).reshape(-1, SUMMED), axis=1)
    moved = jnp.sum(new != labels).astype(features.dtype)
    return new, cost, sums, jnp.stack([moved, info.survivors, info.evaluated])


@partial(programs.Program, static=("num_components", "dimension"))
def _needed(labels: Array, num_components: int, dimension: int) -> Array:
    safe = jnp.where(labels >= 0, labels, num_components)
    counts = jnp.zeros((num_components + 1,), jnp.int32).at[safe].add(1)
    return estimation.num_inverses(counts[:num_components], dimension)


@partial(
    programs.Program,
    static=("min_count", "shrinkage"),
    donate=("old",),
    alone=True,
    keep_unused=True,
)
def _reestimate(
    old: GaussianMixture,
    features: Array,
    labels: Array,
    floor: Array,
    *,
    min_count: int,
    shrinkage: Shrinkage,
) -> GaussianMixture:
    """The M-step, into the arrays of the old mixture."""
    return estimation.maximize(
        features,
        labels,
        old.means.shape[0],
        room=(old.rows.shape[0], old.inverses.shape[0]),
        min_count=min_count,
        shrinkage=shrinkage,
        floor=floor,
    )
