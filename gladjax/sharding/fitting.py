"""A fit on a mesh of devices, seen from the host."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Key

from gladjax import assign, covariance, iteration, kmle, mixture, samples, seeding
from gladjax.covariance import Shrinkage
from gladjax.iteration import KMLEInfo, Row, Snapshot
from gladjax.kmle import Seeding
from gladjax.mixture import GaussianMixture
from gladjax.sharding.placing import axis_of, deal, gather
from gladjax.sharding.ring import Nearest, Programs

GRAIN = 8  # Room of a device grows by this part of its share, so that programs last.
LEAST_ROOM = 64  # Samples; fewer are not worth a program of their own.
_programs = functools.lru_cache(maxsize=8)(Programs)


def fit(  # noqa: PLR0913 - as `kmle.fit`
    key: Key[Array, ""],
    features: Float[Array, "n d"],
    *,
    mesh: Mesh,
    num_components: int = 1000,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    valid: Bool[Array, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    seed: Seeding = seeding.kmeans_plus_plus,
    nearest: Nearest = assign.nearest,
    monitor: Callable[[Snapshot], None] | None = None,
    resume: Snapshot | None = None,
) -> tuple[GaussianMixture, KMLEInfo]:
    """Does what `kmle.fit` does, on a mesh of devices; called by every process.

    Args:
      key: Randomness of the seeds, the same in every process.
      features: Samples spread over the mesh, see `place`.
      mesh: Devices along one axis.
      num_components: Components to start with.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      valid: Samples that count, spread like them; all by default.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.
      nearest: Returns labels and costs of samples; takes a ``limit``.
      monitor: Called after every step.
      resume: A snapshot of an interrupted fit of the same samples and options.

    Returns:
      The mixture, on the host, and what happened, as `kmle.fit` returns them.

    Raises:
      ValueError: If there are no samples, one that counts is not finite, or the mesh,
        the options or the snapshot do not fit.
    """
    n = features.shape[0]
    axis = axis_of(mesh)
    if n % mesh.size:
        raise ValueError(f"{n} samples do not spread evenly on {mesh.size} devices")
    if valid is None:
        spec = NamedSharding(mesh, PartitionSpec(axis))
        valid = jax.make_array_from_callback((n,), spec, lambda _: np.ones(1, bool))
    samples.checked(features, valid)
    used = gather(valid)
    count = int(used.sum())
    iteration.check_fit(num_components, count, max_steps, tolerance, min_count)
    num_components = iteration.usable(num_components, count, min_count)
    programs = _programs(mesh, min_count, shrinkage, nearest)
    floor = programs.floor(features, valid)
    if not np.isfinite(np.asarray(floor)):
        raise ValueError("features of samples that count must be finite")
    if resume is None:
        size = max(kmle.SEED_SAMPLES, 10 * num_components)
        draw, sample = jax.random.split(key)
        index = seeding.subsample(sample, used, size)
        few = gather(programs.take(features, index.astype(np.int32)))
        centres = jax.jit(seed, static_argnums=2)(draw, few, num_components)
        labels = gather(programs.euclidean(features, valid, np.asarray(centres)))
        history = np.zeros((0, 5))
    else:
        labels, history = iteration.resumed(resume, n, num_components)
    steps = _Steps(programs, features, valid, floor, num_components)
    (fitted, labels), history, converged = iteration.iterate(
        steps,
        (steps.estimate(labels), labels),
        history,
        dimension=features.shape[1],
        max_steps=max_steps,
        tolerance=tolerance,
        monitor=monitor,
        snapshot=lambda state: {"labels": state[1]},
    )
    whole = _whole(fitted)
    info = iteration.reported(fitted.log_weights, labels, history, converged=converged)
    return mixture.compact(whole), info


class _Spread(NamedTuple):
    """A mixture over devices, and what the host knows of it."""

    parts: GaussianMixture
    places: np.ndarray
    log_weights: np.ndarray


class _Steps:
    """The step for `iteration.iterate`."""

    def __init__(
        self,
        programs: Programs,
        features: Array,
        valid: Array,
        floor: Array,
        num_components: int,
    ) -> None:
        self._programs, self._features, self._valid = programs, features, valid
        self._floor, self._k = floor, num_components
        self._count = int(gather(valid).sum())
        self._room, self._entries = 0, 1
        spec = PartitionSpec(programs.axis)
        self._sharding = NamedSharding(programs.mesh, spec)
        self._min_count = programs.min_count

    def __call__(
        self, state: tuple[_Spread, np.ndarray]
    ) -> tuple[tuple[_Spread, np.ndarray], Row]:
        """Assigns every sample, then fits every component."""
        old, labels = state
        found, cost = self._programs.search(
            self._features, self._valid, old.parts, old.places
        )
        new = gather(found)
        mean = float(np.sum(gather(cost), dtype=np.float64)) / self._count
        fitted = self.estimate(new)
        alive, k = int(np.isfinite(fitted.log_weights).sum()), float(self._k)
        return (fitted, new), Row(mean, alive, int(np.sum(new != labels)), k, k)

    def estimate(self, labels: np.ndarray) -> _Spread:
        """Fits every component on its device."""
        counts = np.bincount(labels[labels >= 0], minlength=self._k)
        size, d = self._programs.mesh.size, self._features.shape[1]
        places = deal(counts, size)
        place = np.zeros(self._k + 1, np.int32)
        place[places.ravel()] = np.arange(places.size)
        dealt = np.append(counts, 0)[places].astype(np.int64)
        grain = max(LEAST_ROOM, self._features.shape[0] // (size * GRAIN))
        room = -(-max(int(dealt.sum(axis=1).max()), 1) // grain) * grain
        self._room = max(self._room, room)
        needed = int(np.where(dealt < d, dealt**2, 0).sum(axis=1).max())
        self._entries = max(self._entries, 1 << max(needed - 1, 0).bit_length())
        spread = jax.make_array_from_callback(
            labels.shape, self._sharding, lambda at: labels[at]
        )
        fitted = self._programs.estimate(self._room, self._entries)(
            self._features,
            spread,
            place[: self._k],
            counts.astype(np.int32),
            self._floor,
        )
        alive = np.where(counts >= self._min_count, counts, 0)
        with np.errstate(divide="ignore"):
            log_weights = np.log(alive / max(alive.sum(), 1))
        return _Spread(fitted, places, log_weights)


def _whole(spread: _Spread) -> GaussianMixture:
    """Returns the mixture on the host, components in their order."""
    parts = jax.tree.map(gather, spread.parts)
    num_devices, own = spread.places.shape
    k = len(spread.log_weights)

    def of(device: int) -> GaussianMixture:
        def part(values: np.ndarray) -> np.ndarray:
            size = len(values) // num_devices
            return values[device * size : (device + 1) * size]

        return mixture.first(jax.tree.map(part, parts), own)

    every = mixture.join([of(device) for device in range(num_devices)])
    at = np.zeros(k + 1, np.int64)
    at[spread.places.ravel()] = np.arange(spread.places.size)
    return mixture.chosen(every, at[:k])
