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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import assign, covariance, estimation, iteration, mixture, seeding
from gladjax.covariance import Shrinkage
from gladjax.iteration import KMLEInfo as KMLEInfo
from gladjax.iteration import Snapshot as Snapshot
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.online import Statistics as Statistics
from gladjax.online import statistics as statistics
from gladjax.online import update as update

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
    features = jnp.asarray(features)
    iteration.check(features.shape, num_components, valid)
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
    nearest: Assignment = assign.dense,
) -> tuple[KMLEState, KMLEInfo]:
    """Assigns every sample, then fits every component (Eqs. 1-3, 9).

    Args:
      state: From `init` or the last step.
      features: Samples.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped: their weight is 0 from now on.
      shrinkage: Shrinkage intensity.
      nearest: Returns labels and costs; `assign.pruned` is the same for less where
        components and features are many.

    Returns:
      The next state, of the same shapes, and the log-likelihood before, the components
      after, and the labels.
    """
    features = jnp.asarray(features)
    old = state.mixture
    k, d = old.means.shape
    labels, cost = nearest(old, features)
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
    iteration.check(features.shape, num_components, valid)
    used = np.ones(n, bool) if valid is None else np.asarray(valid)
    iteration.check_fit(int(used.sum()), max_steps, tolerance, min_count)
    num_components = iteration.usable(num_components, int(used.sum()), min_count)
    floor = estimation.floor_variance(features, used)
    estimate = estimation.Estimator(
        features, floor=floor, min_count=min_count, shrinkage=shrinkage
    )
    if resume is None:
        labels = _first_labels(key, features, used, num_components, seed)
        history = np.zeros((0, 5))
    else:
        labels, history = iteration.resumed(resume, n, num_components)
    fitted, info = iteration.iterate(
        estimate,
        assign.Tracker(features, used),
        labels,
        history,
        used=used,
        num_components=num_components,
        max_steps=max_steps,
        tolerance=tolerance,
        monitor=monitor,
    )
    return mixture.compact(fitted), info


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
