"""Fitting local weights: assignments under changing weights, costs computed once."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from gladjax import assign
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.weights.local import LabelCounts, LocalWeights, dense, disc, shares


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


def fit(
    mixture: GaussianMixture,
    features: Float[AnyArray, "m h w d"],
    *,
    radius: float = 1.0,
    prior: float = 0.0,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
) -> LocalWeights:
    """Returns the local weights of a mixture (Eqs. 10-12).

    Args:
      mixture: The global mixture.
      features: Feature maps of the training images.
      radius: Radius of the window, in cells.
      prior: Strength of a Dirichlet prior around the global weights, in samples: the
        weights are ``(count + prior pi_k) / (samples + prior)``. 0 is the paper's.
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
        prior=prior,
        valid=valid,
        max_steps=max_steps,
        tolerance=tolerance,
    )[0]


def fit_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "m h w d"],
    *,
    radius: float = 1.0,
    prior: float = 0.0,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    before: LabelCounts | None = None,
) -> tuple[LocalWeights, WeightsInfo]:
    """Returns what `fit` returns, and what happened.

    Args:
      mixture: The global mixture.
      features: Feature maps of the training images.
      radius: Radius of the window, in cells.
      prior: Strength of a Dirichlet prior around the global weights, in samples: the
        weights are ``(count + prior pi_k) / (samples + prior)``. 0 is the paper's.
      valid: Samples that count; all by default.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      before: Labels of images that are not here any more, counted beside these.

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
    if valid is not None and not np.any(valid):
        raise ValueError("no sample is valid")
    if max_steps < 1:
        raise ValueError(f"max_steps must be positive, not {max_steps}")
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior must be 0 or more and finite, not {prior}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    mixture = jax.tree.map(np.asarray, mixture)
    samples = np.asarray(features).reshape(m * h * w, d)
    used = np.ones(m * h * w, bool) if valid is None else np.asarray(valid).ravel()

    def spread(labels: np.ndarray) -> np.ndarray:
        """Returns the labels on the map, -1 where not valid."""
        out = np.full(m * h * w, -1, np.int32)
        out[used] = labels
        return out.reshape(m, h, w)

    def weigh(labels: np.ndarray) -> LocalWeights:
        return shares(spread(labels), mixture, offsets, prior=prior, before=before)

    place = np.tile(np.arange(h * w, dtype=np.int32), m)
    most = (m + _earlier(before)) * len(offsets) + math.ceil(prior)
    race = _Race(mixture, samples, used, place, most)
    likelihoods, moves = [race.likelihood], [0]
    local = weigh(race.labels)
    converged = False
    for _ in range(1, max_steps):
        labels, likelihood, moved = race.step(local)
        local = weigh(labels)
        likelihoods.append(likelihood)
        moves.append(moved)
        last = likelihoods[-2]
        converged = abs(likelihood - last) <= tolerance * abs(last)
        if converged:
            break
    info = WeightsInfo(
        log_likelihood=np.asarray(likelihoods),
        moved=np.asarray(moves),
        labels=spread(race.labels),
        converged=bool(converged),
    )
    return local, info


def _earlier(before: LabelCounts | None) -> int:
    """Returns the largest number of samples at a position."""
    if before is None or not len(before.places):
        return 0
    return int(np.bincount(before.places, before.amounts).max())


class _Race:
    """Successive assignments under changing weights, from lists made once.

    The weight of a sample's own label is at least one over the samples in a window (the
    prior's included), so with ``W = 2 log(samples)`` a component can beat the label
    ``z`` of a sample only if its cost without weights is below that of ``z`` plus
    ``W``. These components are listed
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
        marginals = assign.bounds(mixture, assign.principal_axes(samples, valid=used))
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
