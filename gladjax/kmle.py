"""K-MLE: a Gaussian mixture by hard assignment (paper, Section 3.1).

One step assigns every sample to the component of least cost and fits every component to
the samples it got:

    z_i     = argmin_k (u_i - mu_k)' Sigma_k^-1 (u_i - mu_k)
                        + log|Sigma_k| - 2 log pi_k                          (Eq. 1)
    pi_k    = n_k / N,   mu_k = mean,   Sigma_k = OAS(S_k, n_k)          (Eqs. 2, 3, 9)

`step` is that, pure, for `jit` and `vmap`. `fit` iterates it on the host to the paper's
stopping rule, and does only what must be done: the assignment is pruned
(`gladjax.assign`), a component whose samples did not change is not fitted again, and a
sample whose component did not change is compared with the changed components only.
None of this changes a label.

Notation: ``n`` samples ``u``, ``k`` components, ``d`` features, ``t`` iterations.

Differs from the reference in
  1. The sign of ``2 log pi_k`` (R1).
  2. Components of fewer than ``min_count`` samples are dropped (R3).
  3. The initialisation, which the paper does not name (R4, see `gladjax.seeding`).
  4. The log-likelihood of the stopping rule is the mean over samples of
     ``max_k log(pi_k N_k)``, constants included (R6). With shrinkage it may fall a
     little between steps.

Reference: Nielsen, "K-MLE: a fast algorithm for learning statistical mixture models",
ICASSP 2012; Artola et al., "GLAD", WACV 2023.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import assign, covariance, estimation, mixture, seeding
from gladjax.covariance import Shrinkage
from gladjax.mixture import AnyArray, GaussianMixture

Seeding = Callable[[Array, Array, int], Array]
SEED_SAMPLES = 20_000  # Samples, at least, that centres are drawn from.


class KMLEState(NamedTuple):
    """What the next step needs.

    Attributes:
      mixture: The mixture; dead components have weight 0.
      iteration: Number of steps done.
    """

    mixture: GaussianMixture
    iteration: Int[AnyArray, ""] | int


class KMLEInfo(NamedTuple):
    """What a step, or every step of a fit, reports.

    Attributes:
      log_likelihood: Mean over samples of ``max_k log(pi_k N_k)``, in nats, of the
        mixture before the step.
      num_components: Living components after the step.
      labels: Assignment of the (last) step; -1 for invalid samples.
      moved: Labels that differ from the previous step's (``fit`` only).
      survivors: Components per sample left by the first bound (``fit`` only).
      evaluated: Full costs per sample (``fit`` only).
      converged: Whether the stopping rule was met (``fit`` only).
    """

    log_likelihood: Float[AnyArray, "*t"]
    num_components: Int[AnyArray, "*t"]
    labels: Int[AnyArray, " n"]
    moved: Int[AnyArray, "*t"] | None = None
    survivors: Float[AnyArray, "*t"] | None = None
    evaluated: Float[AnyArray, "*t"] | None = None
    converged: bool | None = None


class Snapshot(NamedTuple):
    """A fit between two iterations; enough to go on to the same result.

    Attributes:
      iteration: Steps done.
      labels: The assignment, -1 for invalid samples.
      history: Per step: log-likelihood, components, moved, survivors, evaluated.
    """

    iteration: int
    labels: Int[np.ndarray, " n"]
    history: Float[np.ndarray, "t 5"]


def init(
    key: Key[Array, ""],
    features: Float[AnyArray, "n d"],
    *,
    num_components: int,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    seed: Seeding = seeding.kmeans_plus_plus,
) -> KMLEState:
    """Returns a first mixture: seeds, one Euclidean assignment, one M-step (R4).

    Args:
      key: Randomness.
      features: Samples.
      num_components: Number of components to start with, at most ``n``.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.

    Returns:
      The state before the first step.

    Raises:
      ValueError: If there are no samples or fewer than components.
    """
    features = jnp.asarray(features)
    _check(features.shape, num_components, valid)
    if features.shape[0] < num_components:
        raise ValueError(
            f"{features.shape[0]} samples are too few for {num_components} components"
        )
    if valid is None:
        centres = seed(key, features, num_components)
        labels = seeding.euclidean(features, centres)
    else:
        # Invalid samples are drawn as if they were copies of a valid one.
        valid = jnp.asarray(valid)
        stand_in = features[jnp.argmax(valid)]
        clean = jnp.where(valid[:, None], features, stand_in[None, :])
        centres = seed(key, clean, num_components)
        labels = jnp.where(valid, seeding.euclidean(clean, centres), -1)
    fitted = estimation.maximize(
        features, labels, num_components, min_count=min_count, shrinkage=shrinkage
    )
    return KMLEState(fitted, jnp.zeros((), jnp.int32))


def step(
    state: KMLEState,
    features: Float[AnyArray, "n d"],
    *,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> tuple[KMLEState, KMLEInfo]:
    """Assigns every sample, then fits every component (Eqs. 1-3, 9).

    Args:
      state: From `init` or the last step.
      features: Samples.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped: their weight is 0 from now on.
      shrinkage: Shrinkage intensity.

    Returns:
      The next state, of the same shapes, and the log-likelihood before, the components
      after, and the labels.
    """
    features = jnp.asarray(features)
    old = state.mixture
    k, d = old.means.shape
    labels, cost = assign.dense(old, features)
    used = jnp.ones(labels.shape, bool) if valid is None else jnp.asarray(valid)
    labels = jnp.where(used, labels, -1)
    total = jnp.sum(jnp.where(used, cost, 0)) / jnp.sum(used).astype(cost.dtype)
    fitted = estimation.maximize(
        features,
        labels,
        k,
        num_rows=old.rows.shape[0],
        min_count=min_count,
        shrinkage=shrinkage,
    )
    info = KMLEInfo(
        log_likelihood=-0.5 * (total + d * math.log(2 * math.pi)),
        num_components=jnp.sum(jnp.isfinite(fitted.log_weights)),
        labels=labels,
    )
    return KMLEState(fitted, jnp.asarray(state.iteration) + 1), info


def fit(  # noqa: PLR0913 - the paper's parameters, and how a long fit is watched
    key: Key[Array, ""],
    features: Float[AnyArray, "n d"],
    *,
    num_components: int = 1000,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    seed: Seeding = seeding.kmeans_plus_plus,
    monitor: Callable[[Snapshot], None] | None = None,
    resume: Snapshot | None = None,
) -> tuple[GaussianMixture, KMLEInfo]:
    """Iterates to the paper's stopping rule (on the host).

    Args:
      key: Randomness of the seeds, the only one.
      features: Samples; a memory-mapped array is read in chunks.
      num_components: Components to start with (the paper's 1000); at most one for
        every two valid samples, or every ``min_count``, is used.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.
      monitor: Called after every step; to show progress, to keep a `Snapshot`.
      resume: A snapshot of an interrupted fit of the same samples and options.

    Returns:
      The mixture, dead components dropped, the others in the order of the start; and
      what happened, step by step. Dropped components are missing from the mixture, so
      the labels in the info count the living ones only.

    Raises:
      ValueError: If there are no samples, or the options or the snapshot do not fit.
    """
    features = np.asarray(features) if isinstance(features, jax.Array) else features
    n = features.shape[0]
    _check(features.shape, num_components, valid)
    used = np.ones(n, bool) if valid is None else np.asarray(valid)
    _check_fit(int(used.sum()), max_steps, tolerance, min_count)
    # So few that one of them always has enough samples to live.
    most = int(used.sum()) // max(2, min_count)
    num_components = max(1, min(num_components, most))
    floor = estimation.floor_variance(features, used)
    estimate = estimation.Estimator(
        features, floor=floor, min_count=min_count, shrinkage=shrinkage
    )
    if resume is None:
        labels = _first_labels(key, features, used, num_components, seed)
        history = np.zeros((0, 5))
    else:
        if resume.labels.shape != (n,):
            raise ValueError(
                f"the snapshot has {resume.labels.shape[0]} labels, not {n}: it is of "
                "a fit to other features"
            )
        labels, history = resume.labels, resume.history
        if len(labels) and labels.max() >= num_components:
            raise ValueError("the snapshot is of a fit with more components")
    fitted, changed = estimate(labels, num_components)
    search = assign.Tracker(features, used)
    converged = _stops(history, tolerance)
    for iteration in range(len(history), max_steps):
        if converged:
            break
        new_labels, cost, counts = search(fitted, labels, changed)
        moved = int(np.sum(new_labels != labels))
        labels = new_labels
        mean_cost = float(np.mean(cost[used], dtype=np.float64))
        fitted, changed = estimate(labels, num_components)
        alive = int(np.isfinite(fitted.log_weights).sum())
        d = features.shape[1]
        likelihood = -0.5 * (mean_cost + d * math.log(2 * math.pi))
        history = np.vstack([history, [likelihood, alive, moved, *counts]])
        converged = _stops(history, tolerance)
        if monitor is not None:
            monitor(Snapshot(iteration + 1, labels, history))
    alive = np.isfinite(fitted.log_weights)
    renamed = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
    info = KMLEInfo(
        log_likelihood=history[:, 0],
        num_components=history[:, 1].astype(np.int32),
        labels=np.where(labels >= 0, renamed[labels], -1).astype(np.int32),
        moved=history[:, 2].astype(np.int64),
        survivors=history[:, 3],
        evaluated=history[:, 4],
        converged=converged,
    )
    return mixture.compact(fitted), info


def _stops(history: np.ndarray, tolerance: float) -> bool:
    """Tells whether the last relative change is below the tolerance."""
    if len(history) < 2:
        return False
    before, after = history[-2, 0], history[-1, 0]
    return bool(abs(after - before) <= tolerance * abs(before))


def _first_labels(
    key: Array, features: np.ndarray, used: np.ndarray, k: int, seed: Seeding
) -> np.ndarray:
    """Returns the Euclidean assignment to seeds drawn from a subsample."""
    draw, sample = jax.random.split(key)
    size = max(SEED_SAMPLES, 10 * k)
    index = seeding.subsample(sample, used, size)
    centres = jax.jit(seed, static_argnums=2)(draw, np.asarray(features[index]), k)
    nearest = jax.jit(seeding.euclidean)
    labels = np.full(len(features), -1, np.int32)
    for first in range(0, len(features), assign.CHUNK):
        part = np.asarray(features[first : first + assign.CHUNK])
        padded = np.zeros((assign.CHUNK, part.shape[1]), part.dtype)
        padded[: len(part)] = part
        found = np.asarray(nearest(padded, centres))[: len(part)]
        labels[first : first + len(part)] = found
    return np.where(used, labels, -1).astype(np.int32)


def _check(shape: tuple[int, ...], num_components: int, valid: AnyArray | None) -> None:
    if len(shape) != 2:
        raise ValueError(f"features must be of shape (n, d), not {shape}")
    if valid is not None and valid.shape != shape[:1]:
        raise ValueError(f"valid must be of shape {shape[:1]}, not {valid.shape}")
    if num_components < 1:
        raise ValueError(f"num_components must be positive, not {num_components}")
    if isinstance(valid, np.ndarray) and not valid.any():
        raise ValueError("no sample is valid")


def _check_fit(used: int, max_steps: int, tolerance: float, min_count: int) -> None:
    if min_count < 1:
        raise ValueError(f"min_count must be positive, not {min_count}")
    if used < min_count:
        raise ValueError(f"{used} samples are too few for min_count={min_count}")
    if max_steps < 0:
        raise ValueError(f"max_steps must be 0 or more, not {max_steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
