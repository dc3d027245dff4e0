"""K-MLE: a Gaussian mixture by hard assignment (paper, Section 3.1).

One step assigns every sample to the component of least cost and fits every component to
the samples it got:

    z_i     = argmin_k (u_i - mu_k)' Sigma_k^-1 (u_i - mu_k)
                        + log|Sigma_k| - 2 log pi_k                          (Eq. 1)
    pi_k    = n_k / N,   mu_k = mean,   Sigma_k = OAS(S_k, n_k)          (Eqs. 2, 3, 9)

`step` is that, pure, for `jit` and `vmap`. `fit` iterates it to the paper's stopping
rule on the device at hand: the samples lie there, labels and mixture stay there, and
the host sees a few numbers a step (`gladjax.iteration`). Samples that do not fit are
streamed (`gladjax.samples`). The assignment is exact and a fraction of the work
(`gladjax.assign`); every component is fitted anew (`gladjax.estimation`).

Samples that come later are learnt by `update` (`gladjax.online`), from the `statistics`
of those that were learnt.

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
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import (
    assign,
    cache,
    covariance,
    estimation,
    iteration,
    mixture,
    programs,
    samples,
    seeding,
)
from gladjax.covariance import Shrinkage
from gladjax.iteration import KMLEInfo as KMLEInfo
from gladjax.iteration import Snapshot as Snapshot
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.online import Statistics as Statistics
from gladjax.online import statistics as statistics
from gladjax.online import update as update
from gladjax.samples import Samples
from gladjax.steps import Steps

Seeding = Callable[[Array, Array, int], Array]
Assignment = Callable[[GaussianMixture, Array], tuple[Array, Array]]
SEED_SAMPLES = 20_000  # Samples, at least, that centres are drawn from.


class KMLEState(NamedTuple):
    """What the next step needs.

    Attributes:
      mixture: The mixture; dead components have weight 0.
      iteration: Number of steps done.
    """

    mixture: GaussianMixture
    iteration: Int[AnyArray, ""] | int


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
    features = jnp.asarray(samples.checked(features, valid))
    if num_components < 1:
        raise ValueError(f"num_components must be positive, not {num_components}")
    if features.shape[0] < num_components:
        raise ValueError(
            f"{features.shape[0]} samples are too few for {num_components} components"
        )
    if valid is None:
        centres = seed(key, features, num_components)
        labels = seeding.euclidean(features, centres)
    else:
        clean = seeding.filled(features, valid)
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
    nearest: Assignment = assign.nearest,
) -> tuple[KMLEState, KMLEInfo]:
    """Assigns every sample, then fits every component (Eqs. 1-3, 9).

    Args:
      state: From `init` or the last step.
      features: Samples.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped: their weight is 0 from now on.
      shrinkage: Shrinkage intensity.
      nearest: Returns labels and costs.

    Returns:
      The next state, of the shapes that `init` gives, and the log-likelihood before,
      the components after, and the labels.
    """
    features = jnp.asarray(features)
    old = state.mixture
    k, d = old.means.shape
    labels, cost = nearest(old, features)
    used = jnp.ones(labels.shape, bool) if valid is None else jnp.asarray(valid)
    labels = jnp.where(used, labels, -1)
    total = jnp.sum(jnp.where(used, cost, 0)) / jnp.sum(used).astype(cost.dtype)
    rows, entries = estimation.most_room(features.shape[0], k, d)
    fitted = estimation.maximize(
        features,
        labels,
        k,
        room=(max(old.rows.shape[0], rows), max(old.inverses.shape[0], entries)),
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
    features = samples.checked(features, valid)
    n = features.shape[0]
    count = n if valid is None else int(np.sum(valid))
    cache.release_programs()
    iteration.check_fit(num_components, count, max_steps, tolerance, min_count)
    k = iteration.usable(num_components, count, min_count)
    given = samples.gather(features, valid)
    if resume is None:
        labels, history = first_labels(key, given, k, seed), np.zeros((0, 5))
    else:
        labels, history = iteration.resumed(resume, n, k)
    steps = Steps(given, k, min_count, shrinkage)
    state, history, converged = iteration.iterate(
        steps,
        (steps.estimate(None, labels), labels),
        history,
        dimension=features.shape[1],
        max_steps=max_steps,
        tolerance=tolerance,
        monitor=monitor,
        snapshot=lambda state: {"labels": np.asarray(state[1])},
    )
    labels = state[1]
    fitted, history = steps.restored(state[0], history)
    info = iteration.reported(
        fitted.log_weights, np.asarray(labels), history, converged=converged
    )
    return mixture.compact(fitted), info


def first_labels(
    key: Key[Array, ""], given: Samples, num_components: int, seed: Seeding
) -> Int[AnyArray, " n"]:
    """Returns the Euclidean assignment to seeds drawn from a subsample.

    Args:
      key: Randomness.
      given: The samples.
      num_components: Number of components ``k``.
      seed: Draws the centres.

    Returns:
      Labels, -1 for invalid samples.
    """
    draw, sample = jax.random.split(key)
    size = max(SEED_SAMPLES, 10 * num_components)
    index = seeding.subsample(sample, np.asarray(given.used), size)
    few = jnp.ldexp(jnp.asarray(given.features[index]), given.exponent)
    centres = jax.jit(seed, static_argnums=2)(draw, few, num_components)
    if given.resident:
        return _euclidean(given.features, given.used, centres, 0)
    parts = [
        np.asarray(_euclidean(x, used, centres, given.exponent))
        for x, used in samples.slices(given.features, given.used)
    ]
    return np.concatenate(parts)[: len(given.features)]


@partial(programs.Program, static=("exponent",))
def _euclidean(features: Array, used: Array, centres: Array, exponent: int) -> Array:
    features = jnp.ldexp(features, exponent) if exponent else features
    return jnp.where(used, seeding.euclidean(features, centres), -1)
