"""The iteration of EM: state, start, and a fit on the host."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import assign, covariance, estimation, iteration, kmle, mixture, seeding
from gladjax.covariance import Shrinkage
from gladjax.em.expectation import expect
from gladjax.em.maximization import maximize
from gladjax.iteration import KMLEInfo
from gladjax.kmle import Seeding
from gladjax.mixture import AnyArray, GaussianMixture


class EMState(NamedTuple):
    """What the next step needs.

    Attributes:
      mixture: The mixture, with ``k d`` rows; dead components have weight 0.
      iteration: Number of steps done.
    """

    mixture: GaussianMixture
    iteration: Int[AnyArray, ""] | int


class Snapshot(NamedTuple):
    """A fit between two iterations; enough to go on to the same result.

    Attributes:
      iteration: Steps done.
      mixture: The mixture, dead components included.
      labels: Most responsible components, -1 for invalid samples.
      history: Per step: log-likelihood, components, moved, survivors, evaluated.
    """

    iteration: int
    mixture: GaussianMixture
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
) -> EMState:
    """Returns the first mixture of K-MLE, with room for ``k d`` rows.

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
    first = kmle.init(
        key,
        features,
        num_components=num_components,
        valid=valid,
        min_count=min_count,
        shrinkage=shrinkage,
        seed=seed,
    ).mixture
    k, d = first.means.shape
    more = k * d - first.rows.shape[0]
    first = dataclasses.replace(
        first,
        rows=jnp.pad(first.rows, ((0, more), (0, 0))),
        variances=jnp.pad(first.variances, (0, more), constant_values=1),
    )
    return EMState(first, jnp.zeros((), jnp.int32))


def fit(  # noqa: PLR0913 - the parameters of K-MLE
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
    """Iterates to the stopping rule of K-MLE (on the host).

    Args:
      key: Randomness of the seeds, the only one.
      features: Samples; a memory-mapped array is read in chunks.
      num_components: Components to start with; at most one for every two valid
        samples, or every ``min_count``, is used.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      valid: Samples that count; all by default.
      min_count: Components of a smaller effective count are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.
      monitor: Called after every step; to show progress, to keep a `Snapshot`.
      resume: A snapshot of an interrupted fit of the same samples and options.

    Returns:
      The mixture, dead components dropped, the others in the order of the start; and
      what happened, step by step.

    Raises:
      ValueError: If there are no samples, or the options or the snapshot do not fit.
    """
    features = np.asarray(features) if isinstance(features, jax.Array) else features
    n = features.shape[0]
    iteration.check_rule(max_steps, tolerance)
    used = np.ones(n, bool) if valid is None else np.asarray(valid)
    if resume is None:
        start, _ = kmle.fit(
            key,
            features,
            num_components=num_components,
            max_steps=0,
            valid=valid,
            min_count=min_count,
            shrinkage=shrinkage,
            seed=seed,
        )
        labels, history = np.full(n, -1, np.int32), np.zeros((0, 5))
    else:
        start, labels, history = resume.mixture, resume.labels, resume.history
        if labels.shape != (n,) or start.means.shape[1] != features.shape[1]:
            raise ValueError("the snapshot is of a fit to other features")
    fitted = jax.tree.map(np.asarray, start)
    floor = estimation.floor_variance(features, used)
    index = np.flatnonzero(used)
    basis = assign.principal_axes(features, valid=used)
    converged = iteration.stops(history, tolerance)
    for step in range(len(history), max_steps):
        if converged:
            break
        found = expect(fitted, features, index, basis=basis, start=labels)
        moved = int(np.sum(found.labels != labels))
        labels = found.labels
        fitted = maximize(
            features,
            found,
            len(fitted.means),
            floor=floor,
            min_count=min_count,
            shrinkage=shrinkage,
        )
        alive = int(np.isfinite(fitted.log_weights).sum())
        counts = (found.survivors, found.evaluated)
        row = [found.log_likelihood, alive, moved, *counts]
        history = np.vstack([history, [row]])
        converged = iteration.stops(history, tolerance)
        if monitor is not None:
            monitor(Snapshot(step + 1, fitted, labels, history))
    info = iteration.reported(fitted, labels, history, converged=converged)
    return mixture.compact(fitted), info
