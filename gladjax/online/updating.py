"""Learning from further samples, batch by batch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from gladjax import assign, covariance, samples
from gladjax.covariance import Shrinkage
from gladjax.mixture import AnyArray, GaussianMixture, room
from gladjax.online.model import Model
from gladjax.online.moments import scaled
from gladjax.online.sufficient import Statistics, packed, unpacked

Schedule = Callable[[Any], Any]  # Of optax: batch number in, step out.
ROUNDS = 2  # Of new components, where they are wanted.
SLICE = 1 << 16  # Samples that are assigned at once.
BAD = 0.2  # Share of the new samples that new components may begin with.


class UpdateInfo(NamedTuple):
    """What happened in `update`.

    Attributes:
      labels: Component of each new sample; -1 where not valid.
      log_likelihood: Mean over the samples of a batch of ``max_k log(pi_k N_k)``, in
        nats, before the batch was learnt from.
      steps: The step ``gamma_t`` of each batch.
      moved: Labels that changed in each of the passes that followed, those of all
        rounds one after another.
    """

    labels: Int[np.ndarray, " n"]
    log_likelihood: Float[np.ndarray, " t"]
    steps: Float[np.ndarray, " t"]
    moved: Int[np.ndarray, " p"]


def update(  # noqa: PLR0913 - the step, its limits, and the options of K-MLE
    mixture: GaussianMixture,
    statistics: Statistics,
    new_features: Float[AnyArray, "n d"],
    *,
    schedule: Schedule | None = None,
    batch_size: int = 8192,
    max_passes: int = 10,
    growth: float = 0.1,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> tuple[GaussianMixture, Statistics, UpdateInfo]:
    """Learns from further samples (on the host).

    Args:
      mixture: The mixture of a fit.
      statistics: Its statistics.
      new_features: The new samples; a memory-mapped array is read in chunks.
      schedule: The step ``gamma`` in [0, 1] from the number of the batch, such as
        ``optax.constant_schedule(0.1)``; by default the share of the batch among all
        samples so far, which gives every sample the same weight.
      batch_size: Samples in a mini-batch.
      max_passes: Passes over the new samples, the one through the batches included,
        and again after each of two rounds of new components.
      growth: New components in a round, as a share of those at hand; 0 for none.
      valid: Samples that count; all by default.
      min_count: Components of a smaller count are dropped.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture and the statistics after the update, components in their places,
      dropped ones with weight 0, new ones last; and what happened.

    Raises:
      ValueError: If shapes or options do not fit, no sample counts or one that does is
        not finite, or a step is outside of [0, 1].
    """
    k, d = mixture.means.shape
    _check(statistics, new_features.shape, (k, d), valid)
    if batch_size < 1 or max_passes < 1 or min_count < 1 or not 0 <= growth <= 1:
        raise ValueError(
            "batch_size, max_passes and min_count must be positive, growth in [0, 1]"
        )
    n = new_features.shape[0]
    used = np.ones(n, bool) if valid is None else np.asarray(valid)
    if not used.any():
        raise ValueError("no sample is valid")
    new_features = samples.checked(new_features, valid)
    for x, counted in samples.slices(np.asarray(new_features), used):
        if not np.all(np.isfinite(x[counted])):
            raise ValueError("features of samples that count must be finite")
    dtype = np.dtype(np.asarray(mixture.means).dtype)
    new = max(1, round(growth * k)) if growth else 0
    more = ROUNDS * new
    model = Model(unpacked(statistics), dtype, min_count, shrinkage, more=more)
    model.adopt(mixture)
    learner = _Learner(new_features, used, model)
    likelihoods, steps = learner.batches(schedule, batch_size)
    if max_passes > 1:
        learner.settle(max_passes - 1)
        for _ in range(ROUNDS if growth else 0):
            learner.grow(new)
            learner.settle(max_passes - 1)
    info = UpdateInfo(
        labels=learner.labels,
        log_likelihood=np.asarray(likelihoods),
        steps=np.asarray(steps),
        moved=np.asarray(learner.moved, np.int64),
    )
    return model.mixture, packed(model.moments, dtype), info


class _Learner:
    """The new samples, their labels and weights, and the model that learns them."""

    def __init__(self, features: np.ndarray, used: np.ndarray, model: Model) -> None:
        self._features, self._index = features, np.flatnonzero(used)
        self._model, self._old = model, list(model.moments)
        self._axes = samples.axes(*samples.few(features, used))
        self._weights = np.ones(len(used))
        self._distance: np.ndarray | None = None
        self.labels = np.full(len(used), -1, np.int32)
        self.moved: list[int] = []

    def batches(
        self, schedule: Schedule | None, size: int
    ) -> tuple[list[float], list[float]]:
        """Learns batch by batch; returns the likelihoods before and the steps."""
        model, d = self._model, self._features.shape[1]
        likelihoods, steps, distances, kept = [], [], [], 1.0
        for t, first in enumerate(range(0, len(self._index), size)):
            rows = self._index[first : first + size]
            self.labels[rows], cost = self._search(rows)
            distances.append(self._far(self.labels[rows], cost))
            mean_cost = float(np.mean(cost, dtype=np.float64))
            likelihoods.append(-0.5 * (mean_cost + d * math.log(2 * math.pi)))
            total = sum(part[0] for part in model.moments)
            steps.append(_step(schedule, t, total, len(rows)))
            before, now = _weights(steps[-1], total, len(rows))
            self._weights[self._index[:first]] *= before
            self._weights[rows] = now
            kept *= before
            model.absorb(self._features, rows, self.labels[rows], before, now)
        self._old = scaled(self._old, kept)
        self._distance = np.concatenate(distances)
        return likelihoods, steps

    def settle(self, max_passes: int) -> None:
        """Assigns the new samples again, and again, until they stay."""
        for _ in range(max_passes):
            now, _ = self._search(self._index, start=self.labels[self._index])
            self.moved.append(self._relabel(now))
            if not self.moved[-1]:
                break

    def grow(self, num_new: int) -> None:
        """Makes components of those samples that fit badly, one of each component's.

        At first that is how badly they fitted when they came, afterwards how they do.
        """
        model = self._model
        k = len(model.moments)
        now, cost = self._search(self._index, start=self.labels[self._index])
        distance, self._distance = self._distance, None
        if distance is None:
            distance = self._far(now, cost)
        bad = distance > np.quantile(distance, 1 - BAD)
        excess = np.bincount(now[bad], distance[bad] - distance.mean(), minlength=k)
        worst = np.argsort(-excess, kind="stable")[:num_new]
        worst = worst[excess[worst] > 0]
        nothing = [(0.0, 0 * mean, root[:0]) for _, mean, root in model.moments]
        model.moments += nothing[: len(worst)]
        self._old += nothing[: len(worst)]
        later = now.copy()
        for new, component in enumerate(worst.tolist(), start=k):
            later[bad & (now == component)] = new
        self._relabel(later)

    def _far(self, labels: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Returns the squared Mahalanobis distances that are part of some costs."""
        fitted = jax.tree.map(np.asarray, self._model.padded)
        with np.errstate(divide="ignore"):
            return cost - (fitted.log_dets - 2 * fitted.log_weights)[labels]

    def _relabel(self, now: np.ndarray) -> int:
        """Gives the new samples other labels; returns how many changed."""
        before = self.labels[self._index]
        moved = now != before
        self.labels[self._index] = now
        touched = np.unique(np.concatenate([before[moved], now[moved]]))
        self._model.replace(
            self._old, self._features, self.labels, self._weights, touched
        )
        return int(moved.sum())

    def _search(
        self, rows: np.ndarray, *, start: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels and costs of some samples."""
        labels, costs = [], []
        size = min(room(len(rows)), SLICE)
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            missing = size - len(rows[part])  # One shape, one program.
            x = np.pad(np.asarray(self._features[rows[part]]), ((0, missing), (0, 0)))
            guess = np.full(size, -1, np.int32)
            if start is not None:
                guess[: size - missing] = start[part]
            label, cost = assign.nearest(
                self._model.padded, x, start=guess, axes=self._axes
            )
            labels.append(np.asarray(label)[: size - missing])
            costs.append(np.asarray(cost)[: size - missing])
        return np.concatenate(labels), np.concatenate(costs)


def _check(
    kept: Statistics,
    shape: tuple[int, ...],
    expected: tuple[int, int],
    valid: AnyArray | None,
) -> None:
    if kept.means.shape != expected:
        raise ValueError(
            f"the statistics are of {kept.means.shape[0]} components in "
            f"{kept.means.shape[1]} dimensions, the mixture is {expected}"
        )
    if len(shape) != 2 or shape[1] != expected[1]:
        raise ValueError(f"features must be of shape (n, {expected[1]}), not {shape}")
    if valid is not None and valid.shape != shape[:1]:
        raise ValueError(f"valid must be of shape {shape[:1]}, not {valid.shape}")


def _step(schedule: Schedule | None, t: int, total: float, size: int) -> float:
    if schedule is None:
        return size / (total + size)
    gamma = float(schedule(t))
    if not 0 <= gamma <= 1:
        raise ValueError(f"the step of batch {t} must be in [0, 1], not {gamma}")
    return gamma


def _weights(gamma: float, total: float, size: int) -> tuple[float, float]:
    """Returns factors of the old weights and of the new ones, the larger one 1."""
    if gamma * (total + size) >= size:
        return ((1 - gamma) * size / (gamma * total) if total else 0.0), 1.0
    return 1.0, gamma * total / ((1 - gamma) * size)
