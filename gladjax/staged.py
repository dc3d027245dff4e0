"""Coarse to fine: a mixture of a subsample, of as many components as it bears.

Neighbouring cells of a feature map are nearly copies, so a mixture of some tens of
thousands of samples serves as well as one of all (experiments, `num_components`). `fit`
draws them from all images, chooses the number of components, and only then runs K-MLE
to its stopping rule; where more samples are asked for, it goes on with them from there.

The number of components doubles as long as the images that are held out for the choice
(every fifth) become likelier by more than the standard error over these images. The
centres of fewer components are the first ones of more: one drawing serves all. No label
takes part.

Arrays have one shape whatever the number of images: samples that are missing are marked
as such, and components that are not wanted are dead. So one program per layer serves
every fit, and a cache of compiled programs serves every later one.

Notation: ``m`` images, ``n`` samples, ``k`` components, ``d`` features.

Differs from the reference in
  1. The paper fits 1000 components to all samples; `gladjax.kmle.fit` does.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import covariance, iteration, mixture, programs, samples, seeding
from gladjax.covariance import Shrinkage
from gladjax.iteration import KMLEInfo, Snapshot
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.samples import Samples
from gladjax.steps import Steps

SAMPLES = 32_768  # Samples that a mixture is fitted to first.
CANDIDATES = (25, 50, 100, 200)  # Numbers of components to choose from.
HELD = 5  # One image in so many is held out for the choice.
SHORT = 3  # Steps, at most, of a fit that only chooses.
LOOSE = 1e-4  # Its stopping rule.
SEEDED = 4  # One sample in so many may be a centre, where there are many.
FEW = 4  # Of fewer images none is held out.


State = tuple[GaussianMixture, AnyArray]


class Choice(NamedTuple):
    """How the number of components was chosen.

    Attributes:
      candidates: Numbers of components that were tried.
      log_likelihood: Mean of the held-out images under each, in nats per sample.
      noise: Standard error, over images, of the gain over the candidate before.
      chosen: The number chosen.
    """

    candidates: Int[np.ndarray, " c"]
    log_likelihood: Float[np.ndarray, " c"]
    noise: Float[np.ndarray, " c"]
    chosen: int


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
) -> tuple[GaussianMixture, KMLEInfo, Choice | None]:
    """Fits a mixture to feature maps.

    Args:
      key: Randomness of the subsample and the centres, the only one.
      maps: Feature maps of the training images.
      valid: Samples that count; all by default.
      max_samples: Samples of the last stage; 0 for all.
      max_steps: Largest number of steps of a stage.
      tolerance: Relative change of the log-likelihood below which to stop.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      monitor: Called after every step.

    Returns:
      The mixture, of as many components as were chosen, some of which may be dead; what
      happened in the last stage, its labels those of all samples, -1 where they took no
      part; and the choice, None where there were too few images for one.

    Raises:
      ValueError: If there are no samples, or the options do not fit.
    """
    m, h, w, d = maps.shape
    features = samples.checked(maps.reshape(-1, d), None)
    used = np.ones(m * h * w, bool) if valid is None else np.asarray(valid).ravel()
    count = int(used.sum())
    iteration.check_fit(1, count, max_steps, tolerance, min_count)
    draw, seed, more = jax.random.split(key, 3)
    index = seeding.subsample(draw, used, SAMPLES)
    index = np.concatenate([index[::2], index[1::2]])  # Any half is of all images.
    few = _gathered(features, index)
    most = largest(count, min_count)
    options = (min_count, shrinkage)
    state, k, choice = _begun(seed, few, index // (h * w), m, most, options)
    loop = partial(
        iteration.iterate,
        dimension=d,
        max_steps=max_steps,
        tolerance=tolerance,
        monitor=monitor,
        snapshot=_labels_of,
    )
    nothing = np.zeros((0, 5))
    steps = Steps(few, most, *options)
    state, history, converged = loop(steps, state, nothing)
    limit = count if max_samples == 0 else min(max_samples, count)
    if limit > len(index):
        # Further samples join, from where the first ones led.
        index = seeding.subsample(more, used, limit)
        every = samples.gather(features[index], None)._replace(axes=few.axes)
        state = _rescaled(state[0], every, few), np.full(limit, -1, np.int32)
        steps = Steps(every, most, *options)
        state, history, converged = loop(steps, state, nothing)
    fitted, history = steps.restored(state[0], history)
    labels = np.full(m * h * w, -1, np.int32)
    labels[index] = np.asarray(state[1])[: len(index)]
    # The living ones first, in their order; labels are told anew.
    dead = ~np.isfinite(np.asarray(fitted.log_weights))
    order = np.argsort(dead, kind="stable")[:k]
    place = np.full(most + 1, -1, np.int32)
    place[order] = np.arange(k)
    info = iteration.reported(np.zeros(k), place[labels], history, converged=converged)
    return mixture.roomy(mixture.chosen(fitted, order)), info, choice


def largest(count: int, min_count: int) -> int:
    """Returns the number of components that a fit has room for.

    Args:
      count: Number of samples that count.
      min_count: Components of fewer samples are dropped.
    """
    return iteration.usable(max(CANDIDATES), count, min_count)


def _gathered(features: AnyArray, index: np.ndarray) -> Samples:
    """Returns some samples on the device, padded to `SAMPLES`."""
    missing = SAMPLES - len(index)
    some = np.pad(np.asarray(features[index]), ((0, missing), (0, 0)))
    return samples.gather(some, np.arange(SAMPLES) < len(index))


def _rescaled(fitted: GaussianMixture, new: Samples, old: Samples) -> GaussianMixture:
    by = new.scaled - old.scaled
    return mixture.rescaled(fitted, by) if by else fitted


def _labels_of(state: State) -> dict[str, Any]:
    return {"labels": np.asarray(state[1])}


def _begun(
    key: Array,
    few: Samples,
    owner: Int[np.ndarray, " n"],
    num_images: int,
    most: int,
    options: tuple[int, Shrinkage],
) -> tuple[State, int, Choice | None]:
    """Returns a start, its number of components, and how that was chosen."""
    held = owner % HELD == HELD - 1 if num_images >= HELD else owner == num_images - 1
    held &= np.arange(len(owner)) < SAMPLES // 2
    learnt = ~held & (np.arange(len(owner)) < SAMPLES // 2)
    if num_images >= FEW and held.any() and learnt.any():
        missing = (0, SAMPLES - len(owner))
        parts = np.pad(learnt, missing), np.pad(held, missing)
        state, choice = _chosen(key, few, parts, owner[held], most, options)
        return state, choice.chosen, choice
    k = min(CANDIDATES[min(num_images, FEW) - 1], most)
    labels = _first_labels(few, _centres(key, few, most), k)
    return (Steps(few, most, *options).estimate(None, labels), labels), k, None


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


def _chosen(
    key: Array,
    given: Samples,
    parts: tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]],
    owner: Int[np.ndarray, " h"],
    most: int,
    options: tuple[int, Shrinkage],
) -> tuple[State, Choice]:
    """Tries more and more components on the rest, until the held-out gain is noise."""
    rest, held = parts
    learnt = given._replace(used=jnp.asarray(rest))
    unseen = Steps(given._replace(used=jnp.asarray(held)), most, *options)
    centres = _centres(key, learnt, most)
    steps = Steps(learnt, most, *options)
    d = given.features.shape[1]
    tried, means, noise = [], [], []
    best, before = None, None
    for k in sorted({min(c, most) for c in CANDIDATES}):
        labels = _first_labels(learnt, centres, k)
        state, _, _ = iteration.iterate(
            steps,
            (steps.estimate(None, labels), labels),
            np.zeros((0, 5)),
            dimension=d,
            max_steps=SHORT,
            tolerance=LOOSE,
            snapshot=lambda _: {},
        )
        cost = np.asarray(unseen.costs(state[0]), np.float64)[held]
        images, sums = np.unique(owner, return_inverse=True)
        sizes = np.bincount(sums)
        each = -0.5 * (np.bincount(sums, cost) / sizes + d * math.log(2 * math.pi))
        gain = each if before is None else each - before
        error = 0.0
        if len(images) > 1:
            error = float(np.std(gain, ddof=1) / math.sqrt(len(images)))
        tried.append(k)
        means.append(float(each.mean()))
        noise.append(error)
        if before is not None and gain.mean() <= error:
            break
        best, before = (state, k), each
    assert best is not None
    choice = Choice(np.array(tried), np.array(means), np.array(noise), best[1])
    return best[0], choice
