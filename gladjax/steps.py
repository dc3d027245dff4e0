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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gladjax import assign, estimation, mixture, programs, samples
from gladjax.assign import Bounds, Known
from gladjax.covariance import Shrinkage
from gladjax.iteration import Row
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.samples import Samples

ENTRIES = 1 << 22  # Numbers of inverses that there is always room for.
TRACKED = 2 * assign.WIDTH  # Components from which on assignments are kept up.
CHANGED = 1 / 4  # Share of them that changed from which on all are as fast.
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
        self._tracked = num_components >= TRACKED
        self._made: tuple[GaussianMixture, AnyArray] | None = None
        self._last: _Last | None = None

    def __call__(
        self, state: tuple[GaussianMixture, AnyArray]
    ) -> tuple[tuple[GaussianMixture, AnyArray], Row]:
        """Assigns every sample, then fits every component."""
        old, labels = state
        given, known, made = self._given, None, self._made
        ours = made is not None and made[0] is old and made[1] is labels
        if given.resident:
            last = self._last if ours else None
            known, sums, numbers = self._assigned(old, labels, last)
            new = known.labels
        else:
            new, sums, numbers = self._streamed(old, labels)
        moved, survivors, evaluated = np.asarray(numbers, np.float64).tolist()
        cost = float(np.sum(np.asarray(sums, np.float64))) / self._count
        before = np.array(old.log_weights)
        fitted = self.estimate(old, new)
        after = np.asarray(fitted.log_weights)
        alive = int(np.isfinite(after).sum())
        self._last = None
        if known is not None and self._tracked and ours:
            changed = np.asarray(_changed(jnp.asarray(labels), new, self._k))
            if np.all((before == after) | changed):  # Else one was dropped.
                self._last = _Last(known, changed)
        share = self._count / len(given.used)
        row = Row(cost, alive, int(moved), survivors / share, evaluated / share)
        return (fitted, new), row

    def _assigned(
        self, old: GaussianMixture, labels: AnyArray, last: "_Last | None"
    ) -> tuple[Known, Array, Array | np.ndarray]:
        """Assigns samples on the device, those that must be since the last step."""
        given = self._given
        bounds = assign.prepared(old, given.axes)
        if last is None or last.changed.mean() > CHANGED:
            return _search(
                old, bounds, given.features, given.used, labels, 0, self._tracked
            )
        known, seen = assign.updated(
            old, bounds, given.features, last.known, last.changed, given.used
        )
        sums, moved = _summed(labels, known)
        return known, sums, np.concatenate([[moved], seen])

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
        fitted = self._estimated(old, labels)
        self._made = fitted, labels
        return fitted

    def _estimated(
        self, old: GaussianMixture | None, labels: AnyArray
    ) -> GaussianMixture:
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
            new, some, seen = _search(
                old, bounds, x, used, guess, given.exponent, False
            )
            found.append(np.asarray(new.labels))
            sums.append(np.asarray(some))
            numbers.append(np.asarray(seen, np.float64) * [1, len(x), len(x)])
            first += len(x)
        total = np.sum(numbers, axis=0) / [1, len(given.used), len(given.used)]
        return np.concatenate(found)[: len(given.used)], np.concatenate(sums), total


class _Last(NamedTuple):
    """What the next step may build on.

    Attributes:
      known: The last assignment, to the mixture before the last one made.
      changed: Components whose samples have changed since.
    """

    known: Known
    changed: Bool[np.ndarray, " k"]


@partial(programs.Program, static=("exponent", "certify"))
def _search(
    old: GaussianMixture,
    bounds: Bounds,
    features: Array,
    used: Array,
    labels: Array,
    exponent: int,
    certify: bool,
) -> tuple[Known, Array, Array]:
    """The E-step: what is known, sums of costs; labels moved, survivors, evaluated."""
    features = jnp.ldexp(features, exponent) if exponent else features
    limit = jnp.where(used, jnp.inf, -jnp.inf).astype(features.dtype)
    new, cost, info = assign.assigned(
        old, bounds, features, start=labels, limit=limit, certify=certify
    )
    new = jnp.where(used, new, -1)
    cost = jnp.where(used, cost, 0)
    rest = cost + info.margin if certify else jnp.full_like(cost, -jnp.inf)
    known = Known(new, cost, rest)
    sums, moved = _summed(labels, known)
    numbers = [moved.astype(cost.dtype), info.survivors, info.evaluated]
    return known, sums, jnp.stack(numbers)


@programs.Program
def _summed(labels: Array, known: Known) -> tuple[Array, Array]:
    """Returns the sums of some costs at a time, and how many labels moved."""
    cost = known.costs
    missing = -cost.shape[0] % SUMMED
    sums = jnp.sum(jnp.pad(cost, (0, missing)).reshape(-1, SUMMED), axis=1)
    return sums, jnp.sum(known.labels != labels)


@partial(programs.Program, static=("num_components",))
def _changed(before: Array, after: Array, num_components: int) -> Array:
    """Returns which components gained or lost a sample."""
    moved = before != after
    mask = jnp.zeros((num_components + 1,), bool)
    for labels in (before, after):
        mask = mask.at[jnp.where(moved, labels, num_components)].set(True)
    return mask[:num_components]


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
