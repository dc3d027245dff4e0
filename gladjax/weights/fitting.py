"""Fitting local weights: assignments under changing weights (Eqs. 10-12)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import assign, iteration, programs, samples
from gladjax.assign import Bounds
from gladjax.iteration import Row
from gladjax.mixture import AnyArray, GaussianMixture, extended, roomy
from gladjax.weights.bands import IMAGES, around, band, filled
from gladjax.weights.local import LabelCounts, LocalWeights, disc, listed, stacked

TOGETHER = 8  # The number of components is a multiple of it: few programs.
BOUNDED = 200  # Of which at least bounds are formed, as in fits of `gladjax.staged`.


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


def fit_info(  # noqa: PLR0913 - the options of `fit`, and what is known before
    mixture: GaussianMixture,
    features: Float[AnyArray, "m h w d"],
    *,
    radius: float = 1.0,
    prior: float = 0.0,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    before: LabelCounts | None = None,
    start: Int[AnyArray, "m h w"] | None = None,
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
      start: A guess of the first labels, those of the mixture's own fit, say; -1 for
        none. It changes the time, never the answer.

    Returns:
      The weights and the diagnostics.

    Raises:
      ValueError: If shapes or options do not fit, or a sample that counts is not
        finite.
    """
    disc(radius)  # Refuses a radius that cannot be.
    if features.ndim != 4 or features.shape[3] != mixture.means.shape[1]:
        raise ValueError(
            f"features must be of shape (m, h, w, {mixture.means.shape[1]}), "
            f"not {features.shape}"
        )
    m, h, w, d = features.shape
    if valid is not None and valid.shape != (m, h, w):
        raise ValueError(f"valid must be of shape {(m, h, w)}, not {valid.shape}")
    if start is not None and start.shape != (m, h, w):
        raise ValueError(f"start must be of shape {(m, h, w)}, not {start.shape}")
    if valid is not None and not np.any(valid):
        raise ValueError("no sample is valid")
    if max_steps < 1:
        raise ValueError(f"max_steps must be positive, not {max_steps}")
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior must be 0 or more and finite, not {prior}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    dtype = np.dtype(mixture.means.dtype)
    given, many = mixture, len(mixture.means) >= BOUNDED
    mixture = jax.tree.map(jnp.asarray, roomy(given, together=TOGETHER))
    bounded = mixture if many else roomy(extended(given, BOUNDED))
    used = np.ones((m, h, w), bool) if valid is None else np.asarray(valid)
    bands = [slice(a, a + band(h, w)) for a in range(0, h, band(h, w))]
    for one, inside in zip(features, used, strict=True):  # They may be on disk.
        for rows in bands:
            if not np.isfinite(np.asarray(one[rows]))[inside[rows]].all():
                raise ValueError("features of samples that count must be finite")
    none = np.full((m, h, w), -1, np.int32)
    guess = none if start is None else np.asarray(start)
    flat, count = features.reshape(-1, d), len(mixture.means)
    some, counted = samples.few(flat, used.ravel())
    axes = samples.axes(some.astype(dtype), counted)
    bounds = assign.first(assign.prepared(bounded, axes), count)
    options = radius, prior, before
    steps = _Steps((mixture, bounds), features, used, guess, options, bands)
    labels, history, converged = iteration.iterate(
        steps,
        none,
        np.zeros((0, 5)),
        dimension=d,
        max_steps=max_steps,
        tolerance=tolerance,
        snapshot=lambda labels: {"labels": labels},
    )
    moved = history[:, 2].astype(np.int64)
    moved[0] = 0  # There was nothing before.
    info = WeightsInfo(
        log_likelihood=history[:, 0],
        moved=moved,
        labels=labels,
        converged=converged,
    )
    found = (np.moveaxis(np.asarray(steps.weights(labels, b)), 0, 2) for b in bands)
    return stacked([listed(one, dtype=dtype) for one in found]), info


class _Steps:
    """One step: weights from the labels at hand, then labels from these, by bands."""

    def __init__(
        self,
        given: tuple[GaussianMixture, Bounds],
        features: AnyArray,
        used: np.ndarray,
        start: np.ndarray,
        options: tuple[float, float, LabelCounts | None],
        bands: list[slice],
    ) -> None:
        (self._mixture, self._bounds), self._used = given, used
        self._features = features
        self._start, self._options, self._bands = start, options, bands

    def weights(self, labels: np.ndarray, rows: slice) -> Float[Array, "k r w"]:
        """Returns the weights of a band; the global ones where there is no label."""
        radius, prior, past = self._options
        k, shape = len(self._mixture.means), labels[0, rows].shape
        if not np.any(labels >= 0):
            weights = jnp.exp(self._mixture.log_weights)
            return jnp.broadcast_to(weights[:, None, None], (k, *shape))
        total = around(labels, k, rows, radius=radius, before=past)
        return weigh(self._mixture, total, prior)

    def __call__(self, before: np.ndarray) -> tuple[np.ndarray, Row]:
        labels, m = np.full_like(before, -1), len(before)
        guess = before if np.any(before >= 0) else self._start
        cost, numbers = 0.0, np.zeros(2)
        for rows in self._bands:
            weights = self.weights(before, rows)
            for first in range(0, m, IMAGES):
                part = slice(first, first + IMAGES), rows
                count = len(before[part])
                label, costs, seen = _search(
                    (self._mixture, self._bounds, weights),
                    filled(self._features[part], IMAGES),
                    filled(self._used[part], IMAGES),
                    filled(guess[part], IMAGES, value=-1),
                )
                labels[part] = np.asarray(label)[:count]
                cost += float(np.asarray(costs, np.float64).sum())
                share = IMAGES / (m * len(self._bands))
                numbers += np.asarray(seen, np.float64) * share
        moved = int(np.sum(labels != before))
        alive = len(self._mixture.means)
        row = Row(cost / max(int(self._used.sum()), 1), alive, moved, *numbers.tolist())
        return labels, row


@programs.Program
def _search(
    given: tuple[GaussianMixture, Bounds, Float[Array, "k h w"]],
    features: Float[Array, "m h w d"],
    used: Bool[Array, "m h w"],
    start: Int[Array, "m h w"],
) -> tuple[Array, Array, Array]:
    """Returns labels (Eq. 10), their costs by image, and what was computed."""
    mixture, bounds, weights = given
    m, h, w, d = features.shape
    x = features.reshape(m * h * w, d).astype(mixture.means.dtype)
    limit = jnp.where(used.ravel(), jnp.inf, -jnp.inf).astype(x.dtype)
    labels, cost, info = assign.assigned(
        mixture,
        bounds,
        x,
        start=start.ravel(),
        limit=limit,
        addends=mixture.log_dets[:, None] - 2 * jnp.log(weights).reshape(-1, h * w),
    )
    cost = jnp.where(used.ravel(), cost, 0).reshape(m, h * w)
    seen = jnp.stack([info.survivors, info.evaluated])
    return labels.reshape(m, h, w), jnp.sum(cost, axis=1), seen


@partial(programs.Program, static=("prior",))
def weigh(
    mixture: GaussianMixture, around: Float[Array, "h w k"], prior: float
) -> Float[Array, "k h w"]:
    """Returns the weights that follow from windowed counts (Eq. 12).

    Args:
      mixture: The global mixture.
      around: Samples of every component within the window of every position (Eq. 11).
      prior: Strength of the Dirichlet prior, in samples.

    Returns:
      The weights of every component at every position.
    """
    everywhere = jnp.exp(jnp.asarray(mixture.log_weights))[:, None, None]
    # Earlier labels may be of components that are dead by now.
    around = jnp.where(everywhere > 0, jnp.moveaxis(around, 2, 0), 0)
    around = around.astype(everywhere.dtype)
    total = jnp.sum(around, axis=0, keepdims=True)
    shares = (around + prior * everywhere) / jnp.maximum(total + prior, 1e-30)
    return jnp.where(total + prior > 0, shares, everywhere)
