"""Coarse to fine: a mixture of a subsample, of as many components as it bears.

Neighbouring cells of a feature map are nearly copies, so some tens of thousands of
samples say where the components are. `fit` draws them from all images and runs K-MLE to
its stopping rule; then it takes one step with more samples, from which covariances of
many features gain (experiments, "with how many samples").

There is a component for every `CELLS` cells of the maps, to the nearest of `NUMBERS`:
for every image at the coarsest layer. No label takes part, and no likelihood: held-out
images ask for too many components where images are few, and for too few on textures
(experiments, `num_components`).

Arrays have few shapes whatever the number of images: samples that are missing are
marked as such, and components that are not wanted are dead. So the same programs serve
every fit, and a cache of compiled programs serves every later one. A model has the
shapes of its own number of components, so these are few.

Notation: ``m`` images, ``n`` samples, ``k`` components, ``d`` features.

Differs from the reference in
  1. The paper fits 1000 components to all samples; `gladjax.kmle.fit` does.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from gladjax import covariance, iteration, mixture, programs, samples, seeding
from gladjax.covariance import Shrinkage
from gladjax.iteration import KMLEInfo, Snapshot
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.samples import Samples
from gladjax.steps import Steps

SAMPLES = 32_768  # Samples that a mixture is fitted to first.
JOINED = 4  # Times as many take part in the last step.
NUMBERS = (25, 50, 100, 200)  # Of components.
CELLS = 256  # For each of them.
SEEDED = 4  # One sample in so many may be a centre, where there are many.


State = tuple[GaussianMixture, AnyArray]


def fit(  # noqa: PLR0913 - the parameters of K-MLE
    key: Key[Array, ""],
    maps: Float[AnyArray, "m h w d"],
    *,
    valid: Bool[AnyArray, "m h w"] | None = None,
    max_samples: int = SAMPLES,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    monitor: Callable[[Snapshot], None] | None = None,
) -> tuple[GaussianMixture, KMLEInfo]:
    """Fits a mixture to feature maps.

    Args:
      key: Randomness of the subsample and the centres, the only one.
      maps: Feature maps of the training images.
      valid: Samples that count; all by default.
      max_samples: Samples of the steps, at most `SAMPLES`; `JOINED` times as many as
        are asked for take part in the last one, all of them for 0.
      max_steps: Largest number of steps before that one.
      tolerance: Relative change of the log-likelihood below which to stop.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      monitor: Called after every step.

    Returns:
      The mixture, some components of which may be dead; and what happened, the last
      step included. Its labels are those of all samples, -1 where they took no part.

    Raises:
      ValueError: If there are no samples, or the options do not fit.
    """
    m, h, w, d = maps.shape
    features = samples.checked(maps.reshape(-1, d), None)
    used = np.ones(m * h * w, bool) if valid is None else np.asarray(valid).ravel()
    count = int(used.sum())
    iteration.check_fit(1, count, max_steps, tolerance, min_count)
    draw, seed, more = jax.random.split(key, 3)
    index = seeding.subsample(draw, used, min(max_samples or SAMPLES, SAMPLES))
    few = gathered(features, index)
    most = largest(count, min_count)
    options = (min_count, shrinkage)
    k = min(most, number(count))
    labels = _first_labels(few, _centres(seed, few, most), k)
    loop = partial(
        iteration.iterate,
        dimension=d,
        tolerance=tolerance,
        monitor=monitor,
        snapshot=_labels_of,
    )
    nothing = np.zeros((0, 5))
    steps = Steps(few, most, *options)
    state = steps.estimate(None, labels), labels
    state, history, converged = loop(steps, state, nothing, max_steps=max_steps)
    limit = count if max_samples == 0 else min(JOINED * max_samples, count)
    past = nothing
    if limit > len(index):
        # Further samples join, from where the first ones led.
        past = steps.restored(state[0], history)[1]
        index = seeding.subsample(more, used, limit)
        every = gathered(features, index)._replace(axes=few.axes)
        start = np.full(slots(limit), -1, np.int32)
        steps = Steps(every, most, *options)
        state = _rescaled(state[0], every, few), start
        state, history, _ = loop(steps, state, nothing, max_steps=1)
    fitted, history = steps.restored(state[0], history)
    history = np.concatenate([past, history])
    labels = np.full(m * h * w, -1, np.int32)
    labels[index] = np.asarray(state[1])[: len(index)]
    # The living ones first, in their order; labels are told anew.
    dead = ~np.isfinite(np.asarray(fitted.log_weights))
    order = np.argsort(dead, kind="stable")[:k]
    place = np.full(most + 1, -1, np.int32)
    place[order] = np.arange(k)
    info = iteration.reported(np.zeros(k), place[labels], history, converged=converged)
    return mixture.chosen(fitted, order), info


def number(count: int) -> int:
    """Returns the number of components for so many samples.

    Args:
      count: Number of samples that count, at least one.
    """
    return min(NUMBERS, key=lambda k: abs(math.log(k * CELLS / count)))


def largest(count: int, min_count: int) -> int:
    """Returns the number of components that a fit has room for.

    Args:
      count: Number of samples that count.
      min_count: Components of fewer samples are dropped.
    """
    return iteration.usable(max(NUMBERS), count, min_count)


def slots(count: int) -> int:
    """Returns to how many samples so many are padded, so that few programs do.

    Args:
      count: Number of samples.
    """
    return SAMPLES * max(1, -(-count // SAMPLES))


def gathered(features: AnyArray, index: np.ndarray) -> Samples:
    """Returns some samples on the device, padded to one of few numbers (`slots`).

    Args:
      features: All samples.
      index: Which of them.
    """
    size = slots(len(index))
    some = np.pad(np.asarray(features[index]), ((0, size - len(index)), (0, 0)))
    return samples.gather(some, np.arange(size) < len(index))


def _rescaled(fitted: GaussianMixture, new: Samples, old: Samples) -> GaussianMixture:
    by = new.scaled - old.scaled
    return mixture.rescaled(fitted, by) if by else fitted


def _labels_of(state: State) -> dict[str, Any]:
    return {"labels": np.asarray(state[1])}


def _centres(key: Array, given: Samples, most: int) -> Float[Array, "k d"]:
    """Draws centres; all samples are drawn from where there are few."""
    every = SEEDED if int(given.used.sum()) >= SAMPLES // 4 else 1
    return _drawn(key, given.features[::every], given.used[::every], most)


@partial(programs.Program, static=("most",))
def _drawn(key: Array, features: Array, used: Array, most: int) -> Array:
    return seeding.kmeans_plus_plus(key, seeding.filled(features, used), most)


@programs.Program
def _first_labels(given: Samples, centres: Array, k: Array | int) -> Array:
    # Copies of the first centre are never nearer than it.
    place = jnp.arange(len(centres), dtype=jnp.int32)
    some = jnp.where(place[:, None] < k, centres, centres[:1])
    return jnp.where(given.used, seeding.euclidean(given.features, some), -1)
