"""Learning from images of good products."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from gladjax import (
    assign,
    covariance,
    em,
    kmle,
    masks,
    online,
    scoring,
    seeding,
    staged,
    weights,
)
from gladjax import features as extraction
from gladjax.backbone import Backbone
from gladjax.covariance import Shrinkage
from gladjax.detector import left_out
from gladjax.detector.inference import align_image, resized
from gladjax.detector.model import (
    Aligned,
    Detector,
    FitInfo,
    Image,
    Images,
    Kept,
    Layer,
    Progress,
    Settings,
    check,
)
from gladjax.images import place
from gladjax.kmle import KMLEInfo
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.staged import Choice
from gladjax.weights import LabelCounts, LocalWeights, WeightsInfo


def fit(
    key: Key[Array, ""],
    backbone: Backbone,
    images: Images,
    *,
    settings: Settings | None = None,
    mask: Bool[AnyArray, "h w"] | None = None,
    reference: Image | None = None,
    shrinkage: Shrinkage = covariance.oas,
    progress: Progress | None = None,
) -> Detector:
    """Learns what a product looks like from images of good ones.

    Args:
      key: Randomness.
      backbone: The network.
      images: RGB images, 0 to 255, of any sizes; a lazy sequence is read once.
      settings: Everything that is a number.
      mask: Pixels that count, at the backbone's image size; all but a margin of 1/16
        by default.
      reference: The image to align with; the first by default.
      shrinkage: Shrinkage intensity of the covariances.
      progress: Called with a stage, what is done of it, and of how much.

    Returns:
      The detector, without calibration.

    Raises:
      ValueError: If there is no image or an option does not fit, or (an `ImageError`)
        an image has values that are not finite or of another range.
    """
    return fit_info(
        key,
        backbone,
        images,
        settings=settings,
        mask=mask,
        reference=reference,
        shrinkage=shrinkage,
        progress=progress,
    )[0]


def fit_info(  # noqa: PLR0913 - all that a fit may be told
    key: Key[Array, ""],
    backbone: Backbone,
    images: Images,
    *,
    settings: Settings | None = None,
    mask: Bool[AnyArray, "h w"] | None = None,
    reference: Image | None = None,
    shrinkage: Shrinkage = covariance.oas,
    folds: int = 0,
    progress: Progress | None = None,
) -> tuple[Detector, FitInfo]:
    """Returns what `fit` returns, and what happened.

    Args:
      key: Randomness.
      backbone: The network.
      images: RGB images, 0 to 255.
      settings: Everything that is a number.
      mask: Pixels that count.
      reference: The image to align with.
      shrinkage: Shrinkage intensity.
      folds: Folds of images that are left out in turn to score them; 0 for none.
      progress: Called as things go on.

    Returns:
      The detector and the report.

    Raises:
      ValueError: If there is no image or an option does not fit.
    """
    settings = Settings() if settings is None else settings
    if len(images) == 0:
        raise ValueError("there is no image to learn from")
    check(dataclasses.asdict(settings))
    _check(settings, folds)
    size = backbone.image_size
    mask = masks.margin(size) if mask is None else jnp.asarray(mask)
    if mask.shape != tuple(size):
        raise ValueError(f"mask must be of shape {tuple(size)}, not {mask.shape}")
    frame = None
    if settings.motion:
        first = images[0] if reference is None else reference
        frame = resized(backbone, first, "reference")
    blank = Detector(backbone, {}, np.asarray(mask), frame, None, settings)
    clock = _Clock()
    maps, valid, aligned = collect(blank, images, progress)
    clock.stop("features")
    places = left_out.deal(len(images), folds, first=int(frame is not None))
    told = _Teller(progress, settings.max_steps, backbone.layers)
    learnt: dict[str, _Learnt] = {}
    keys = jax.random.split(key, len(backbone.layers))
    for name, layer_key in zip(backbone.layers, keys, strict=True):
        keep = on_grid(valid, maps[name])
        how = (settings, shrinkage, places)
        learnt[name] = _learn(layer_key, maps[name], keep, how, told.of(name), clock)
    detector = dataclasses.replace(
        blank, layers={name: one.layer for name, one in learnt.items()}
    )
    alone = [one.alone for one in learnt.values() if one.alone is not None]
    scores = left_out.scores(detector, alone, valid, places) if folds else None
    infos = [item.info for item in aligned]
    report = FitInfo(
        mixtures={name: one.mixture for name, one in learnt.items()},
        weights={n: one.weights for n, one in learnt.items() if one.weights},
        alignment=jax.tree.map(lambda *a: np.stack(a), *infos)
        if frame is not None
        else None,
        transforms=np.stack([item.transform for item in aligned])
        if frame is not None
        else None,
        choices={n: one.choice for n, one in learnt.items() if one.choice},
        left_out=scores,
        seconds=clock.seconds,
    )
    return detector, report


def _check(settings: Settings, folds: int) -> None:
    if settings.num_components < 1 and settings.estimator != "kmle":
        raise ValueError("the estimator em needs a number of components")
    if folds and settings.estimator != "kmle":
        raise ValueError("leaving images out needs the estimator kmle")


class _Clock:
    """Wall time between calls of `stop`, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class _Teller:
    """Tells of the steps of all mixtures together."""

    def __init__(
        self, progress: Progress | None, max_steps: int, layers: Sequence[str]
    ) -> None:
        self._progress, self._total = progress, max_steps * len(layers)
        self._steps = dict.fromkeys(layers, 0)

    def of(self, layer: str) -> Callable[[kmle.Snapshot | em.Snapshot], None] | None:
        if self._progress is None:
            return None
        tell = self._progress

        def monitor(snapshot: kmle.Snapshot | em.Snapshot) -> None:
            self._steps[layer] = snapshot.iteration
            tell("mixtures", sum(self._steps.values()), self._total)

        return monitor


def collect(
    detector: Detector, images: Images, progress: Progress | None
) -> tuple[dict[str, np.ndarray], list[np.ndarray], list[Aligned]]:
    """Aligns images and extracts their features.

    Args:
      detector: The detector; its layers are not used.
      images: RGB images, 0 to 255.
      progress: Called as things go on.

    Returns:
      Feature maps, validity masks (one for all without alignment), motions.
    """
    aligned: list[Aligned] = []
    valid: list[np.ndarray] = []

    def prepared() -> Iterator[np.ndarray]:
        for i in range(len(images)):
            item = align_image(detector, images[i], name=place(images, i))
            valid.append(item.valid)
            aligned.append(item._replace(image=np.zeros((0, 0, 3), np.float32)))
            if progress is not None:
                progress("features", i + 1, len(images))
            yield item.image

    maps = extraction.extract_batches(detector.backbone, prepared())
    return maps, valid if detector.reference is not None else valid[:1], aligned


class _Learnt(NamedTuple):
    """What is learnt of a layer, how it came about, and the maps of images left out."""

    layer: Layer
    mixture: KMLEInfo
    weights: WeightsInfo | None
    choice: Choice | None
    alone: np.ndarray | None


def _learn(
    key: Array,
    maps: np.ndarray,
    keep: np.ndarray,
    how: tuple[Settings, Shrinkage, np.ndarray],
    monitor: Callable[[kmle.Snapshot | em.Snapshot], None] | None,
    clock: _Clock,
) -> _Learnt:
    settings, shrinkage, places = how
    mixture, info, choice = fit_mixture(
        key, maps, keep, settings=settings, shrinkage=shrinkage, monitor=monitor
    )
    clock.stop("mixtures")
    shares, local = fit_weights(mixture, maps, keep, settings)
    kept = None
    if settings.keep_statistics:
        kept = _keep(mixture, maps, keep, info, local)
    layer = Layer(mixture, shares, scoring.prepare(mixture, shares), kept)
    clock.stop("weights")
    alone = None
    if places.max(initial=-1) >= 0:
        labels = np.asarray(info.labels), local and local.labels
        alone = left_out.log_maps(mixture, maps, labels, places, settings, shrinkage)
        clock.stop("left out")
    return _Learnt(layer, info, local, choice, alone)


def fit_mixture(
    key: Array,
    maps: Float[AnyArray, "m h w d"],
    keep: Bool[np.ndarray, "m h w"],
    *,
    settings: Settings,
    shrinkage: Shrinkage = covariance.oas,
    monitor: Callable[[kmle.Snapshot | em.Snapshot], None] | None = None,
) -> tuple[GaussianMixture, KMLEInfo, Choice | None]:
    """Fits the mixture of a layer.

    Args:
      key: Randomness.
      maps: Feature maps of the training images.
      keep: Cells that count.
      settings: Everything that is a number.
      shrinkage: Shrinkage intensity of the covariances.
      monitor: Called after every step.

    Returns:
      The mixture; its report, with a label for every sample, -1 where it took no part;
      and how the number of components was chosen, None where it was given.
    """
    if settings.num_components == 0:
        return staged.fit(
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
    draw, key = jax.random.split(key)
    samples = maps.reshape(-1, maps.shape[-1])
    used = keep.ravel()
    limit = settings.max_samples
    index = None
    if limit and used.sum() > limit:
        index = seeding.subsample(draw, used, limit)
        samples, used = samples[index], np.ones(limit, bool)
    estimate = em.fit if settings.estimator == "em" else kmle.fit
    mixture, info = estimate(
        key,
        samples,
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
    return mixture, info, None


def fit_weights(
    mixture: GaussianMixture,
    maps: Float[AnyArray, "m h w d"],
    keep: Bool[np.ndarray, "m h w"],
    settings: Settings,
    *,
    before: LabelCounts | None = None,
) -> tuple[LocalWeights, WeightsInfo | None]:
    """Fits the local weights of a layer, where the settings ask for them.

    Args:
      mixture: The mixture of the layer.
      maps: Feature maps of the training images.
      keep: Cells that count.
      settings: Everything that is a number.
      before: Labels of images that are not here any more, counted beside these.

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
    )


def on_grid(valid: Sequence[np.ndarray], maps: np.ndarray) -> np.ndarray:
    """Returns which cells count: from one mask per image, or one for all.

    Args:
      valid: Pixels of the images that count.
      maps: Feature maps, ``(m, h, w, d)``.

    Returns:
      Cells that count, ``(m, h, w)``.
    """
    grid = maps.shape[1:3]
    keep = np.stack([np.asarray(masks.to_grid(v, grid)) for v in valid])
    return np.broadcast_to(keep, maps.shape[:3])


def _keep(
    mixture: GaussianMixture,
    maps: np.ndarray,
    keep: np.ndarray,
    info: KMLEInfo,
    local: WeightsInfo | None,
) -> Kept:
    """Returns the statistics of all valid samples under a fitted mixture."""
    samples, used = maps.reshape(-1, maps.shape[-1]), keep.ravel()
    labels = np.asarray(info.labels)
    if np.any(labels[used] < 0):  # It was fitted to a subsample.
        labels = np.full(len(samples), -1, np.int32)
        index = np.flatnonzero(used)
        labels[index] = np.asarray(assign.nearest(mixture, samples[index])[0])
    statistics = online.statistics(samples, labels, len(mixture.means))
    return Kept(
        statistics, None if local is None else weights.label_counts(local.labels)
    )
