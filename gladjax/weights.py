"""Local weights: where in the image each component of the mixture is at home.

Means and covariances stay as they are; every position ``x`` gets weights of its own
(paper, Section 3.2). From the global weights on, repeat:

    z_m(x)   = argmin_k (u_m(x) - mu_k)' Sigma_k^-1 (u_m(x) - mu_k)
                        + log|Sigma_k| - 2 log pi_k(x)                      (Eq. 10)
    pi_k(x)  = share of label k among the samples of all images
               at positions within distance r of x                       (Eqs. 11, 12)

The weights are counts, and mostly 0: about a tenth of the components is active at a
position. They are kept as a sparse list per position.

Only the weights change from step to step, so the costs without weights are computed
once, for the few components per sample that any weights could make the winner; the
bounds of `gladjax.assign` rule out the others.

Notation: ``m`` images, ``h w`` positions, ``k`` components, ``r`` the radius.

Differs from the reference in
  1. The sign of ``2 log pi_k(x)`` (R1).
  2. The disc is cut at the border of the map and divided by what is left of it, and by
     the valid samples only. A position that no valid sample reaches keeps the global
     weights.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.2.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import assign
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.pytree import pytree, static


@pytree
class LocalWeights:
    """Sparse weights of the components at every position.

    Attributes:
      starts: First entry of each position (row by row), and the end, ``h w + 1``.
      components: Active components of each position, rising.
      log_weights: Logarithms of their weights.
      shape: Size of the map.
    """

    starts: Int[AnyArray, " p"]
    components: Int[AnyArray, " e"]
    log_weights: Float[AnyArray, " e"]
    shape: tuple[int, int] = static()


class WeightsInfo(NamedTuple):
    """What happened in `fit`.

    Attributes:
      log_likelihood: Mean over samples of ``max_k log(pi_k(x) N_k)``, per step.
      moved: Labels changed, per step.
      labels: The last assignment, -1 for invalid samples.
      converged: Whether the stopping rule was met.
    """

    log_likelihood: Float[np.ndarray, " t"]
    moved: Int[np.ndarray, " t"]
    labels: Int[np.ndarray, "m h w"]
    converged: bool


def disc(radius: float) -> list[tuple[int, int]]:
    """Returns the offsets ``(dy, dx)`` of the positions within a distance.

    Args:
      radius: Distance in cells of the map, 0 or more.

    Returns:
      Offsets with ``dy^2 + dx^2 <= radius^2``; five for radius 1.

    Raises:
      ValueError: If the radius is negative or not finite.
    """
    if not (0 <= radius < math.inf):
        raise ValueError(f"radius must be 0 or more and finite, not {radius}")
    reach = range(-int(radius), int(radius) + 1)
    return [(y, x) for y in reach for x in reach if y * y + x * x <= radius**2]


def counts(
    labels: Int[AnyArray, "m h w"], num_components: int, *, radius: float = 1.0
) -> Float[Array, "h w k"]:
    """Counts the labels around every position: windowed segment sums, dense.

    Args:
      labels: Component of each sample, negative where not valid.
      num_components: Number of components ``k``.
      radius: Radius of the window.

    Returns:
      ``|C_k(x)|`` of Eq. 11 for every position and component; divided by their sum
      they are the weights of Eq. 12.
    """
    labels = jnp.asarray(labels)
    _, h, w = labels.shape
    place = jnp.arange(h * w, dtype=jnp.int32).reshape(1, h, w)
    valid = (labels >= 0) & (labels < num_components)
    segment = jnp.where(valid, place * num_components + labels.astype(jnp.int32), -1)
    own = jax.ops.segment_sum(
        valid.ravel().astype(jnp.float32), segment.ravel(), h * w * num_components
    ).reshape(h, w, num_components)
    reach = int(radius)
    padded = jnp.pad(own, ((reach, reach), (reach, reach), (0, 0)))
    window = [
        padded[reach + y : reach + y + h, reach + x : reach + x + w]
        for y, x in disc(radius)
    ]
    return sum(window[1:], start=window[0])


def fit(
    mixture: GaussianMixture,
    features: Float[AnyArray, "m h w d"],
    *,
    radius: float = 1.0,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
) -> LocalWeights:
    """Returns the local weights of a mixture (Eqs. 10-12).

    Args:
      mixture: The global mixture.
      features: Feature maps of the training images.
      radius: Radius of the window, in cells.
      valid: Samples that count; all by default.
      max_steps: Largest number of steps; about 10 are needed.
      tolerance: Relative change of the log-likelihood below which to stop.

    Returns:
      The weights.

    Raises:
      ValueError: If shapes or options do not fit.
    """
    return fit_info(
        mixture,
        features,
        radius=radius,
        valid=valid,
        max_steps=max_steps,
        tolerance=tolerance,
    )[0]


def fit_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "m h w d"],
    *,
    radius: float = 1.0,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
) -> tuple[LocalWeights, WeightsInfo]:
    """Returns what `fit` returns, and what happened.

    Args:
      mixture: The global mixture.
      features: Feature maps of the training images.
      radius: Radius of the window, in cells.
      valid: Samples that count; all by default.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.

    Returns:
      The weights and the diagnostics.

    Raises:
      ValueError: If shapes or options do not fit.
    """
    offsets = disc(radius)
    if features.ndim != 4 or features.shape[3] != mixture.means.shape[1]:
        raise ValueError(
            f"features must be of shape (m, h, w, {mixture.means.shape[1]}), "
            f"not {features.shape}"
        )
    m, h, w, d = features.shape
    if valid is not None and valid.shape != (m, h, w):
        raise ValueError(f"valid must be of shape {(m, h, w)}, not {valid.shape}")
    mixture = jax.tree.map(np.asarray, mixture)
    samples = np.asarray(features).reshape(m * h * w, d)
    used = np.ones(m * h * w, bool) if valid is None else np.asarray(valid).ravel()

    def spread(labels: np.ndarray) -> np.ndarray:
        """Returns the labels on the map, -1 where not valid."""
        out = np.full(m * h * w, -1, np.int32)
        out[used] = labels
        return out.reshape(m, h, w)

    def shares(labels: np.ndarray) -> LocalWeights:
        return _shares(spread(labels), mixture, offsets)

    place = np.tile(np.arange(h * w, dtype=np.int32), m)
    race = _Race(mixture, samples, used, place, m * len(offsets))
    likelihoods, moves = [race.likelihood], [0]
    local = shares(race.labels)
    converged = False
    for _ in range(1, max_steps):
        labels, likelihood, moved = race.step(local)
        local = shares(labels)
        likelihoods.append(likelihood)
        moves.append(moved)
        before = likelihoods[-2]
        converged = abs(likelihood - before) <= tolerance * abs(before)
        if converged:
            break
    info = WeightsInfo(
        log_likelihood=np.asarray(likelihoods),
        moved=np.asarray(moves),
        labels=spread(race.labels),
        converged=bool(converged),
    )
    return local, info


def _shares(
    labels: np.ndarray, mixture: GaussianMixture, offsets: list[tuple[int, int]]
) -> LocalWeights:
    """Returns the share of every label around every position, as a sparse list."""
    _, h, w = labels.shape
    k = mixture.means.shape[0]
    dtype = mixture.means.dtype
    place = np.broadcast_to(np.arange(h * w).reshape(1, h, w), labels.shape)
    ok = labels >= 0
    keys, own = np.unique(place[ok] * k + labels[ok], return_counts=True)
    at, component = keys // k, keys % k
    y, x = at // w, at % w
    shifted, amount = [], []
    for dy, dx in offsets:  # What lies at x is counted at x - offset.
        ty, tx = y - dy, x - dx
        inside = (ty >= 0) & (ty < h) & (tx >= 0) & (tx < w)
        shifted.append(((ty * w + tx) * k + component)[inside])
        amount.append(own[inside])
    keys, inverse = np.unique(np.concatenate(shifted), return_inverse=True)
    total = np.bincount(inverse, np.concatenate(amount), minlength=len(keys))
    at, component = keys // k, keys % k
    window = np.bincount(at, total, minlength=h * w)
    log_weights = np.log(total / window[at])
    empty = np.flatnonzero(window == 0)
    if len(empty):
        alive = np.flatnonzero(np.isfinite(mixture.log_weights))
        at = np.concatenate([at, np.repeat(empty, len(alive))])
        component = np.concatenate([component, np.tile(alive, len(empty))])
        fill = np.tile(mixture.log_weights[alive], len(empty))
        log_weights = np.concatenate([log_weights, fill])
        order = np.argsort(at * k + component, kind="stable")
        at, component, log_weights = at[order], component[order], log_weights[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=h * w))])
    return LocalWeights(
        starts=starts.astype(np.int32),
        components=component.astype(np.int32),
        log_weights=log_weights.astype(dtype),
        shape=(h, w),
    )


class _Race:
    """Successive assignments under changing weights, from lists made once.

    A weight that is not 0 is at least one over the samples in a window, so with
    ``W = 2 log(samples)`` a component can beat the label ``z`` of a sample only if its
    cost without weights is below that of ``z`` plus ``W``. These components are listed
    once, with their costs; a step looks up weights and nothing else. Should a label's
    cost ever exceed what its list is complete to, the list is extended.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        samples: np.ndarray,
        used: np.ndarray,
        place: np.ndarray,
        most: int,
    ) -> None:
        """Makes the first assignment, by the global weights, and the lists."""
        self._mixture, self._samples = mixture, samples
        self._used, self._place = np.flatnonzero(used), place[used]
        self._range = 2 * math.log(max(most, 1)) + 1e-3
        marginals = assign.bounds(mixture, assign.principal_axes(samples))
        alive = np.isfinite(mixture.log_weights)
        plain = np.where(alive, mixture.log_dets, np.inf).astype(mixture.means.dtype)
        self._plain = marginals._replace(constants=plain)
        n = len(self._used)
        self.labels = np.empty(n, np.int32)
        self._complete = np.empty(n)
        total, lists = 0.0, []
        for first in range(0, n, assign.CHUNK):
            part = slice(first, min(first + assign.CHUNK, n))
            x = np.asarray(samples[self._used[part]])
            labels, cost, _ = assign.nearest_info(mixture, x, marginals=marginals)
            total += float(cost.sum(dtype=np.float64))
            base = cost + 2 * mixture.log_weights[labels]
            self.labels[part] = labels
            self._complete[part] = base + self._range
            lists.append(self._list(x, np.arange(first, part.stop)))
        self._owner, self._component, self._base = _joined(lists)
        self.likelihood = self._likelihood(total)

    def _list(
        self, x: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists the components of some samples up to what must be complete."""
        y = assign.project(self._plain, x)
        top = self._complete[rows].astype(y.dtype)
        owner, component, _, _ = assign.candidates(self._plain, y, top)
        base = assign.pair_costs(
            self._mixture, x, owner, component, constants=self._mixture.log_dets
        )
        near = base <= top[owner]
        # A label stays in its list, whatever rounding says.
        near |= component == self.labels[rows][owner]
        owner, component = rows[owner[near]], component[near]
        return owner.astype(np.int32), component.astype(np.int32), base[near]

    def _likelihood(self, total: float) -> float:
        d = self._mixture.means.shape[1]
        return -0.5 * (total / max(len(self._used), 1) + d * math.log(2 * math.pi))

    def step(self, local: LocalWeights) -> tuple[np.ndarray, float, int]:
        """Returns labels, log-likelihood and the number of labels that changed."""
        k = len(self._mixture.means)
        with np.errstate(divide="ignore"):
            added = -2 * np.log(dense(local, k).reshape(-1, k))
        best, winner = self._best(added)
        short = np.flatnonzero(best > self._complete)
        if len(short):
            self._complete[short] = best[short] + self._range
            keep = ~np.isin(self._owner, short)
            lists = [(self._owner[keep], self._component[keep], self._base[keep])]
            for first in range(0, len(short), assign.CHUNK):
                rows = short[first : first + assign.CHUNK]
                x = np.asarray(self._samples[self._used[rows]])
                lists.append(self._list(x, rows))
            self._owner, self._component, self._base = _joined(lists)
            best, winner = self._best(added)
        moved = int(np.sum(winner != self.labels))
        self.labels = winner
        return winner, self._likelihood(float(best.sum())), moved

    def _best(self, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the least cost of each sample and its (first) component."""
        place = self._place[self._owner]
        cost = self._base + added[place, self._component].astype(np.float64)
        best = np.full(len(self._used), np.inf)
        np.minimum.at(best, self._owner, cost)
        wins = np.flatnonzero(cost == best[self._owner])[::-1]
        winner = self.labels.copy()
        winner[self._owner[wins]] = self._component[wins]
        return best, winner


def _joined(
    lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joins lists of pairs and sorts them by sample; components stay rising."""
    if not lists:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    owner, component, base = (
        np.concatenate([part[i] for part in lists]) for i in range(3)
    )
    order = np.argsort(owner, kind="stable")
    return owner[order], component[order], base[order].astype(np.float64)


def dense(local: LocalWeights, num_components: int) -> Float[np.ndarray, "h w k"]:
    """Returns the weights of all components, ``h w k`` numbers.

    Args:
      local: The weights.
      num_components: Number of components.

    Returns:
      ``pi_k(x)``, 0 where a component is not active.
    """
    starts = np.asarray(local.starts)
    at = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    values = np.exp(np.asarray(local.log_weights))
    out = np.zeros((len(starts) - 1, num_components), values.dtype)
    out[at, np.asarray(local.components)] = values
    return out.reshape(*local.shape, num_components)


def uniform(mixture: GaussianMixture, shape: tuple[int, int]) -> LocalWeights:
    """Returns the global weights at every position: the paper's ablation.

    Args:
      mixture: The mixture.
      shape: Size of the map.

    Returns:
      Weights that do not depend on the position.
    """
    log_weights = np.asarray(mixture.log_weights)
    alive = np.flatnonzero(np.isfinite(log_weights))
    size = shape[0] * shape[1]
    return LocalWeights(
        starts=(np.arange(size + 1) * len(alive)).astype(np.int32),
        components=np.tile(alive, size).astype(np.int32),
        log_weights=np.tile(log_weights[alive], size),
        shape=shape,
    )


def active(local: LocalWeights) -> Int[np.ndarray, "h w"]:
    """Returns the number of active components at each position.

    Args:
      local: The weights.

    Returns:
      The map of the paper's Fig. 3, right.
    """
    return np.diff(np.asarray(local.starts)).reshape(local.shape)
