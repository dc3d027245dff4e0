"""Fitting local weights: assignments under changing weights (Eqs. 10-12)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import assign, devices, iteration
from gladjax.assign import Bounds
from gladjax.iteration import Row
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.weights.local import LabelCounts, LocalWeights, counts, disc, listed

IMAGES = 16  # Images of a slice: one program, whatever the number of images.


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
    if valid is not None and not np.any(valid):
        raise ValueError("no sample is valid")
    if max_steps < 1:
        raise ValueError(f"max_steps must be positive, not {max_steps}")
    if not 0 <= prior < math.inf:
        raise ValueError(f"prior must be 0 or more and finite, not {prior}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
    mixture = jax.tree.map(jnp.asarray, mixture)
    used = np.ones((m, h, w), bool) if valid is None else np.asarray(valid)
    for one, inside in zip(features, used, strict=True):  # They may be on disk.
        if not np.isfinite(np.asarray(one))[inside].all():
            raise ValueError("features of samples that count must be finite")
    steps = _Steps(mixture, features, used, (radius, prior, before))
    state, history, converged = iteration.iterate(
        steps,
        (np.full((m, h * w), -1, np.int32), steps.everywhere()),
        np.zeros((0, 5)),
        dimension=d,
        max_steps=max_steps,
        tolerance=tolerance,
        snapshot=lambda state: {"labels": state[0]},
    )
    labels, weights = state
    moved = history[:, 2].astype(np.int64)
    moved[0] = 0  # There was nothing before.
    info = WeightsInfo(
        log_likelihood=history[:, 0],
        moved=moved,
        labels=np.asarray(labels).reshape(m, h, w),
        converged=converged,
    )
    shaped = np.asarray(weights).T.reshape(h, w, -1)
    return listed(shaped, dtype=np.dtype(mixture.means.dtype)), info


class _Steps:
    """One step: assign under the weights at hand, then count."""

    def __init__(
        self,
        mixture: GaussianMixture,
        features: AnyArray,
        used: np.ndarray,
        options: tuple[float, float, LabelCounts | None],
    ) -> None:
        self._mixture, self._features = mixture, features
        self._used, self._options = used, options
        m, _, _, d = features.shape
        some = np.asarray(features[:: max(1, m // 16)]).reshape(-1, d)
        keep = used[:: max(1, m // 16)].ravel()
        self._bounds = _prepare(mixture, some, keep if keep.any() else None)

    def everywhere(self) -> Array:
        """Returns the global weights at every position."""
        _, h, w, _ = self._features.shape
        weights = jnp.exp(self._mixture.log_weights)
        return jnp.broadcast_to(weights[:, None], (weights.shape[0], h * w))

    def __call__(
        self, state: tuple[np.ndarray, Array]
    ) -> tuple[tuple[np.ndarray, Array], Row]:
        before, weights = state
        m, h, w, _ = self._features.shape
        labels = np.full((m, h * w), -1, np.int32)
        cost, numbers = 0.0, np.zeros(2)
        radius, prior, past = self._options
        around = _none_yet(len(weights), (h, w), radius=radius, before=past)
        for first in range(0, m, IMAGES):
            part = slice(first, first + IMAGES)
            x, used, start = self._features[part], self._used[part], before[part]
            count = len(used)
            missing = ((0, IMAGES - count), (0, 0), (0, 0))
            if count < IMAGES:
                x = np.pad(x, (*missing, (0, 0)))
                used = np.pad(used, missing)
                start = np.pad(start, missing[:2], constant_values=-1)
            label, costs, seen, around = _search(
                (self._mixture, self._bounds, weights), x, used, start, around, radius
            )
            labels[part] = np.asarray(label)[:count]
            cost += float(np.asarray(costs, np.float64).sum())
            numbers += np.asarray(seen, np.float64) * IMAGES / m
        new = weigh(self._mixture, around, prior).reshape(len(weights), h * w)
        moved = int(np.sum(labels != before))
        alive = len(self._mixture.means)
        row = Row(cost / max(int(self._used.sum()), 1), alive, moved, *numbers.tolist())
        return (labels, new), row


def _none_yet(
    num_components: int,
    shape: tuple[int, int],
    *,
    radius: float,
    before: LabelCounts | None = None,
) -> Float[Array, "h w k"]:
    """Returns windowed counts of no labels but those of earlier images."""
    if before is None:
        return jnp.zeros((*shape, num_components), jnp.float32)
    nothing = np.full((1, *shape), -1, np.int32)
    return counts(nothing, num_components, radius=radius, before=before)


@devices.Program
def _prepare(mixture: GaussianMixture, features: Array, used: Array | None) -> Bounds:
    axes = assign.coordinates(features.astype(mixture.means.dtype), valid=used)
    return assign.prepare(mixture, axes)


@partial(jax.jit, static_argnums=5, donate_argnums=4)
def _search(
    given: tuple[GaussianMixture, Bounds, Float[Array, "k p"]],
    features: Float[Array, "m h w d"],
    used: Bool[Array, "m h w"],
    start: Int[Array, "m p"],
    around: Float[Array, "h w k"],
    radius: float,
) -> tuple[Array, Array, Array, Array]:
    """Returns labels (Eq. 10), their costs by image, what was computed, and counts."""
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
        addends=mixture.log_dets[:, None] - 2 * jnp.log(weights),
    )
    cost = jnp.where(used.ravel(), cost, 0).reshape(m, h * w)
    seen = jnp.stack([info.survivors, info.evaluated])
    around = around + counts(labels.reshape(m, h, w), len(weights), radius=radius)
    return labels.reshape(m, h * w), jnp.sum(cost, axis=1), seen, around


@partial(jax.jit, static_argnums=2)
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
