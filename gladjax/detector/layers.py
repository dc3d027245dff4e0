"""Learning one layer: its mixture, its local weights, its images left out."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import (
    assign,
    covariance,
    em,
    kmle,
    online,
    samples,
    seeding,
    staged,
    weights,
)
from gladjax.covariance import Shrinkage
from gladjax.detector import left_out, tiles
from gladjax.detector.model import Kept, Layer, Settings
from gladjax.kmle import KMLEInfo
from gladjax.mixture import AnyArray, GaussianMixture, completed
from gladjax.weights import LabelCounts, LocalWeights, WeightsInfo


class Clock:
    """Wall time between calls of `stop`, by name.

    Attributes:
      seconds: Wall time by name.
    """

    def __init__(self) -> None:
        """Begins to count."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        """Adds the time since the last call to a name."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class Learnt(NamedTuple):
    """What is learnt of a layer, and how it came about.

    Attributes:
      layer: The layer.
      mixture: Report of its mixture.
      weights: Report of its local weights; None where they are not local.
      alone: Log-maps of the images, each left out; None where none is.
      everywhere: Those under global weights, where they may be the better ones, of the
        images by which that is told, NaN for the others.
      others: Returns these of all images.
    """

    layer: Layer
    mixture: KMLEInfo
    weights: WeightsInfo | None
    alone: np.ndarray | None
    everywhere: np.ndarray | None
    others: Callable[[], np.ndarray | None]


def learn(
    key: Array,
    maps: np.ndarray,
    keep: np.ndarray,
    how: tuple[Settings, Shrinkage, np.ndarray],
    monitor: Callable[[kmle.Snapshot | em.Snapshot], None] | None,
    clock: Clock,
) -> Learnt:
    """Learns a layer.

    Args:
      key: Randomness.
      maps: Feature maps of the training images.
      keep: Cells that count.
      how: Settings, shrinkage, and the fold of each image (`left_out.deal`).
      monitor: Called after every step of the mixture.
      clock: Told of every stage.
    """
    settings, shrinkage, places = how
    mixture, info = fit_mixture(
        key, maps, keep, settings=settings, shrinkage=shrinkage, monitor=monitor
    )
    mixture = left_out.roomy(mixture, np.asarray(info.labels), places)
    clock.stop("mixtures")
    own = np.asarray(info.labels)
    shares, local = fit_weights(mixture, maps, keep, settings, start=own)
    kept = None
    if settings.keep_statistics:
        kept = _keep(mixture, maps, keep, info, local)
    layer = Layer(mixture, shares, tiles.prepare(mixture, shares, settings), kept)
    clock.stop("weights")
    how_found = settings, shrinkage
    alone = everywhere = None
    if places.max(initial=-1) >= 0:
        alone, everywhere = left_out.log_maps(
            mixture, maps, (own, local and local.labels), places, *how_found
        )
        clock.stop("left out")

    def others() -> np.ndarray | None:
        rest = np.where(places < left_out.looked_at(places), -1, places)
        if everywhere is None or rest.max(initial=-1) < 0:
            return everywhere
        found, _ = left_out.log_maps(mixture, maps, (own, None), rest, *how_found)
        return np.where((rest < 0)[:, None, None], everywhere, found)

    return Learnt(layer, info, local, alone, everywhere, others)


def kept(learnt: Iterable[Learnt]) -> float | None:
    """Returns the share of what local weights tell that holds for images left out.

    How much likelier they make the images left out, over how much likelier they make
    those that they were counted from (`gladjax.weights.information`), of all layers.

    Args:
      learnt: The layers.

    Returns:
      The share, negative where they do harm; None where it is not known.
    """
    held = told = 0.0
    for one in learnt:
        if one.alone is None or one.everywhere is None:
            return None
        held += float(np.nanmean(one.alone - one.everywhere))
        told += weights.information(one.layer.mixture, one.layer.local_weights)
    return held / told if told > 0 else None


def spread(one: Learnt, settings: Settings) -> Learnt:
    """Returns a layer with global weights in place of its local ones.

    Args:
      one: The layer, its images left out under either.
      settings: Everything that is a number.
    """
    old = one.layer
    shares = weights.uniform(old.mixture, old.local_weights.shape)
    layer = dataclasses.replace(
        old,
        local_weights=shares,
        prepared=tiles.prepare(old.mixture, shares, settings),
        kept=old.kept and dataclasses.replace(old.kept, counts=None),
    )
    return one._replace(layer=layer, weights=None, alone=one.others())


def fit_mixture(
    key: Array,
    maps: Float[AnyArray, "m h w d"],
    keep: Bool[np.ndarray, "m h w"],
    *,
    settings: Settings,
    shrinkage: Shrinkage = covariance.oas,
    monitor: Callable[[kmle.Snapshot | em.Snapshot], None] | None = None,
) -> tuple[GaussianMixture, KMLEInfo]:
    """Fits the mixture of a layer.

    Args:
      key: Randomness.
      maps: Feature maps of the training images.
      keep: Cells that count.
      settings: Everything that is a number.
      shrinkage: Shrinkage intensity of the covariances.
      monitor: Called after every step.

    Returns:
      The mixture; and its report, with a label for every sample, -1 where it took no
      part.
    """
    if settings.num_components == 0:
        mixture, info = staged.fit(
            key,
            maps,
            valid=keep,
            max_samples=settings.max_samples,
            max_steps=settings.max_steps,
            tolerance=settings.tolerance,
            min_count=settings.min_count,
            shrinkage=shrinkage,
            monitor=monitor,
        )
        return completed(mixture), info
    draw, key = jax.random.split(key)
    flat, used = maps.reshape(-1, maps.shape[-1]), keep.ravel()
    limit = settings.max_samples
    index = None
    if limit and used.sum() > limit:
        index = seeding.subsample(draw, used, limit)
        flat, used = flat[index], np.ones(limit, bool)
    elif limit:
        flat = np.asarray(flat)  # So few that a file need not stay one.
    estimate = em.fit if settings.estimator == "em" else kmle.fit
    mixture, info = estimate(
        key,
        flat,
        num_components=settings.num_components,
        max_steps=settings.max_steps,
        tolerance=settings.tolerance,
        valid=used,
        min_count=settings.min_count,
        shrinkage=shrinkage,
        monitor=monitor,
    )
    if index is not None:
        labels = np.full(keep.size, -1, np.int32)
        labels[index] = np.asarray(info.labels)
        info = info._replace(labels=labels)
    return completed(mixture), info


def fit_weights(
    mixture: GaussianMixture,
    maps: Float[AnyArray, "m h w d"],
    keep: Bool[np.ndarray, "m h w"],
    settings: Settings,
    *,
    before: LabelCounts | None = None,
    start: Int[np.ndarray, " n"] | None = None,
) -> tuple[LocalWeights, WeightsInfo | None]:
    """Fits the local weights of a layer, where the settings ask for them.

    Args:
      mixture: The mixture of the layer.
      maps: Feature maps of the training images.
      keep: Cells that count.
      settings: Everything that is a number.
      before: Labels of images that are not here any more, counted beside these.
      start: A guess of the component of every sample, -1 for none.

    Returns:
      The weights and their report; the global ones everywhere, and None, where they
      are not local.
    """
    if not settings.local:
        return weights.uniform(mixture, maps.shape[1:3]), None
    return weights.fit_info(
        mixture,
        maps,
        radius=settings.radius,
        prior=settings.prior,
        valid=keep,
        max_steps=settings.max_steps,
        tolerance=settings.tolerance,
        before=before,
        start=None if start is None else start.reshape(keep.shape),
    )


def _keep(
    mixture: GaussianMixture,
    maps: np.ndarray,
    keep: np.ndarray,
    info: KMLEInfo,
    local: WeightsInfo | None,
) -> Kept:
    """Returns the statistics of all valid samples under a fitted mixture."""
    flat, used = maps.reshape(-1, maps.shape[-1]), keep.ravel()
    labels = np.asarray(info.labels)
    if np.any(labels[used] < 0):  # It was fitted to a subsample.
        axes = samples.axes(*samples.few(flat, used))
        found = []
        for x, own in samples.slices(flat, used):
            limit = np.where(own, np.inf, -np.inf).astype(x.dtype)
            label, _ = assign.nearest(mixture, x, limit=limit, axes=axes)
            found.append(np.asarray(label))
        labels = np.concatenate(found)[: len(flat)]
    statistics = online.statistics(flat, labels, len(mixture.means))
    return Kept(
        statistics, None if local is None else weights.label_counts(local.labels)
    )
