"""The detector: from photographs of good products to a score of the next one.

`fit` composes the modules of the package, in the order of the paper's Fig. 1: align the
images with a reference, extract features, fit the global mixture of every layer, fit
its local weights. `score` aligns, extracts, and reads off the log-probability map, its
quantile and a heat map. Each stage is a function of its own (`align_image`, `log_maps`,
`summarise`), so that a pipeline can put something else in its place.

Notation: ``m`` images; ``H W`` the size at which images enter the backbone (and of the
reference and the mask); ``h w`` the finest map.

Differs from the reference in
  1. What `gladjax.kmle`, `gladjax.weights` and `gladjax.scoring` name.
  2. Where an aligned image does not reach, nothing is learnt and nothing counts.
  3. Optionally the mixture is fitted to a random subsample of a layer's features.

Reference: Artola et al., "GLAD", WACV 2023.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Num

from gladjax import align, assign, covariance, kmle, masks, scoring, weights
from gladjax import backbone as backbones
from gladjax import features as extraction
from gladjax.backbone import Backbone
from gladjax.covariance import Shrinkage
from gladjax.kmle import KMLEInfo
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.pytree import pytree, static
from gladjax.weights import LocalWeights, WeightsInfo

Image = Num[AnyArray, "_h _w 3"]
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a detector is fitted with; plain numbers, kept in its file.

    Attributes:
      num_components: Components to start from, per layer.
      max_steps: Steps of K-MLE and of the local weights, at most.
      tolerance: Relative change of the log-likelihood that ends both.
      min_count: Components of fewer samples are dropped.
      max_samples: Samples per layer that the mixture is fitted to; 0 for all.
      local: Whether weights are local; without, the global ones hold everywhere.
      radius: Radius of the window of the local weights, in cells.
      quantile: Quantile of the log-map that is the score.
      sigma: Smoothing of the heat map, in pixels at the backbone's image size.
      motion: Motion by which images are aligned; empty for none.
      coarse: Whether alignment begins with a search over all angles.
    """

    num_components: int = 1000
    max_steps: int = 100
    tolerance: float = 1e-6
    min_count: int = 2
    max_samples: int = 0
    local: bool = True
    radius: float = 1.0
    quantile: float = 0.005
    sigma: float = 4.0
    motion: str = ""
    coarse: bool = False


@pytree
class Layer:
    """What a detector knows of one layer.

    Attributes:
      mixture: Its global mixture.
      local_weights: Its local weights.
      prepared: Bounds for scoring, derived from the mixture.
    """

    mixture: GaussianMixture
    local_weights: LocalWeights
    prepared: assign.Bounds


@pytree
class Detector:
    """A fitted detector.

    Attributes:
      backbone: The network.
      layers: What is known of each of its layers.
      mask: Pixels of the reference's frame that count, ``(H, W)``.
      reference: The image that others are aligned with, ``(H, W, 3)``, 0 to 255; None
        without alignment.
      calibration: Scores of normal images that were not learnt from; None if there
        are none.
      settings: How it was fitted.
    """

    backbone: Backbone
    layers: dict[str, Layer]
    mask: Bool[AnyArray, "h w"]
    reference: Float[AnyArray, "h w 3"] | None
    calibration: Float[AnyArray, " c"] | None
    settings: Settings = static()


class FitInfo(NamedTuple):
    """What happened in a fit.

    Attributes:
      mixtures: Report of K-MLE, per layer.
      weights: Report of the local weights, per layer; empty without them.
      alignment: Report of the registrations; None without alignment.
      transforms: Motions of the training images, ``(m, 3, 3)``; None without.
      seconds: Wall time per stage.
    """

    mixtures: dict[str, KMLEInfo]
    weights: dict[str, WeightsInfo]
    alignment: align.AlignInfo | None
    transforms: Float[np.ndarray, "m 3 3"] | None
    seconds: dict[str, float]


class Aligned(NamedTuple):
    """An image in the frame of the detector.

    Attributes:
      image: Pixels, ``(H, W, 3)``, 0 to 255.
      valid: Pixels that came from inside the image.
      transform: Motion from the reference's pixels to the image's, both of size
        ``H W``.
      info: Report of the registration; None without alignment.
    """

    image: Float[np.ndarray, "h w 3"]
    valid: Bool[np.ndarray, "h w"]
    transform: Float[np.ndarray, "3 3"]
    info: align.AlignInfo | None


class Scored(NamedTuple):
    """What a detector says of an image.

    Attributes:
      score: Minus the quantile of the log-map; higher is more anomalous.
      log_map: Sum of the layers' log-probabilities, in the reference's frame.
      mask: Cells of the log-map that counted.
      heat_map: Smoothed map in the image's frame and size, higher is more anomalous.
      alignment: The motion and its report.
    """

    score: float
    log_map: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    heat_map: Float[np.ndarray, "_h _w"]
    alignment: Aligned


def fit(
    key: Key[Array, ""],
    backbone: Backbone,
    images: Sequence[Image],
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
      ValueError: If there is no image or an option does not fit.
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


def fit_info(
    key: Key[Array, ""],
    backbone: Backbone,
    images: Sequence[Image],
    *,
    settings: Settings | None = None,
    mask: Bool[AnyArray, "h w"] | None = None,
    reference: Image | None = None,
    shrinkage: Shrinkage = covariance.oas,
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
      progress: Called as things go on.

    Returns:
      The detector and the report.

    Raises:
      ValueError: If there is no image or an option does not fit.
    """
    settings = Settings() if settings is None else settings
    if len(images) == 0:
        raise ValueError("there is no image to learn from")
    size = backbone.image_size
    mask = masks.margin(size) if mask is None else jnp.asarray(mask)
    if mask.shape != tuple(size):
        raise ValueError(f"mask must be of shape {tuple(size)}, not {mask.shape}")
    frame = None
    if settings.motion:
        first = images[0] if reference is None else reference
        frame = _resized(backbone, first)
    blank = Detector(backbone, {}, np.asarray(mask), frame, None, settings)
    clock = _Clock()
    maps, valid, aligned = _collect(blank, images, progress)
    clock.stop("features")
    layers: dict[str, Layer] = {}
    mixtures, local = {}, {}
    for layer, layer_key in zip(
        backbone.layers, jax.random.split(key, len(backbone.layers)), strict=True
    ):
        grid = maps[layer].shape[1:3]
        keep = np.stack([np.asarray(masks.to_grid(v, grid)) for v in valid])
        keep = np.broadcast_to(keep, maps[layer].shape[:3])
        told = _teller(progress, f"mixture of {layer}", settings.max_steps)
        mixture, info = _fit_mixture(
            layer_key, maps[layer], keep, settings, shrinkage, told
        )
        clock.stop(f"mixture {layer}")
        mixtures[layer] = info
        if settings.local:
            shares, local[layer] = weights.fit_info(
                mixture,
                maps[layer],
                radius=settings.radius,
                valid=keep,
                max_steps=settings.max_steps,
                tolerance=settings.tolerance,
            )
        else:
            shares = weights.uniform(mixture, grid)
        layers[layer] = Layer(mixture, shares, scoring.marginals(mixture))
        clock.stop(f"weights {layer}")
    detector = dataclasses.replace(blank, layers=layers)
    infos = [item.info for item in aligned]
    report = FitInfo(
        mixtures=mixtures,
        weights=local,
        alignment=jax.tree.map(lambda *a: np.stack(a), *infos)
        if frame is not None
        else None,
        transforms=np.stack([item.transform for item in aligned])
        if frame is not None
        else None,
        seconds=clock.seconds,
    )
    return detector, report


class _Clock:
    """Wall time between calls of `stop`, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _teller(
    progress: Progress | None, stage: str, total: int
) -> Callable[[kmle.Snapshot], None] | None:
    if progress is None:
        return None
    return lambda snapshot: progress(stage, snapshot.iteration, total)


def _resized(backbone: Backbone, image: Image) -> np.ndarray:
    """Returns an image at the backbone's size, float32, 0 to 255."""
    return np.asarray(
        backbones.resize(np.asarray(image), size=backbone.image_size), np.float32
    )


def _collect(
    detector: Detector, images: Sequence[Image], progress: Progress | None
) -> tuple[dict[str, np.ndarray], list[np.ndarray], list[Aligned]]:
    """Returns feature maps, validity masks (one for all without alignment), motions."""
    aligned: list[Aligned] = []
    valid: list[np.ndarray] = []

    def prepared() -> Iterator[np.ndarray]:
        for i in range(len(images)):
            item = align_image(detector, images[i])
            valid.append(item.valid)
            aligned.append(item._replace(image=np.zeros((0, 0, 3), np.float32)))
            if progress is not None:
                progress("features", i + 1, len(images))
            yield item.image

    maps = extraction.extract_batches(detector.backbone, prepared())
    return maps, valid if detector.reference is not None else valid[:1], aligned


def _fit_mixture(
    key: Array,
    maps: np.ndarray,
    keep: np.ndarray,
    settings: Settings,
    shrinkage: Shrinkage,
    monitor: Callable[[kmle.Snapshot], None] | None,
) -> tuple[GaussianMixture, KMLEInfo]:
    draw, key = jax.random.split(key)
    samples = maps.reshape(-1, maps.shape[-1])
    used = keep.ravel()
    limit = settings.max_samples
    if limit and used.sum() > limit:
        index = np.flatnonzero(used)
        chosen = jax.random.choice(draw, len(index), (limit,), replace=False)
        samples = samples[index[np.sort(np.asarray(chosen))]]
        used = np.ones(limit, bool)
    return kmle.fit(
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


def align_image(detector: Detector, image: Image) -> Aligned:
    """Brings an image into the frame of the detector.

    Args:
      detector: The detector; its layers are not used.
      image: RGB image, 0 to 255, of any size.

    Returns:
      The image at the backbone's size, aligned if the detector has a reference.
    """
    resized = _resized(detector.backbone, image)
    size = resized.shape[:2]
    if detector.reference is None:
        return Aligned(resized, np.ones(size, bool), np.eye(3, dtype=np.float32), None)
    transform, info = align.register(
        detector.reference,
        resized,
        motion=detector.settings.motion,
        coarse=detector.settings.coarse,
    )
    warped, valid = align.warp(resized, transform, size)
    info = jax.tree.map(np.asarray, info)
    return Aligned(np.asarray(warped), np.asarray(valid), np.asarray(transform), info)


def log_maps(
    detector: Detector, maps: Mapping[str, Float[AnyArray, "_h _w _d"]]
) -> dict[str, Float[AnyArray, "_h _w"]]:
    """Returns the log-probability map of every layer of one image.

    Args:
      detector: The detector.
      maps: Feature maps of one image, per layer.

    Returns:
      One map per layer, on its own grid.
    """
    return {
        name: scoring.log_prob_map(
            layer.mixture, layer.local_weights, maps[name], prepared=layer.prepared
        )
        for name, layer in detector.layers.items()
    }


def summarise(
    detector: Detector,
    maps: Mapping[str, Float[AnyArray, "_h _w"]],
    aligned: Aligned,
    shape: tuple[int, int],
) -> Scored:
    """Turns the layers' log-maps into a score and a heat map.

    Args:
      detector: The detector.
      maps: Log-maps of the layers.
      aligned: The image in the frame of the detector.
      shape: Height and width of the heat map.

    Returns:
      Score and maps.
    """
    settings, size = detector.settings, tuple(detector.backbone.image_size)
    counted = np.asarray(detector.mask) & aligned.valid
    whole, mask, score, heat = _finish(
        tuple(jnp.asarray(m) for m in maps.values()),
        counted,
        settings.quantile,
        settings.sigma,
        size,
    )
    if detector.reference is not None:
        back = align.inverse(jnp.asarray(aligned.transform))
        calm = jnp.min(heat)
        heat, known = align.warp(heat, back, size)
        heat = jnp.where(known, heat, calm)
    return Scored(
        score=float(score),
        log_map=np.asarray(whole),
        mask=np.asarray(mask),
        heat_map=np.asarray(scoring.upsample(heat, shape)),
        alignment=aligned,
    )


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _finish(
    maps: tuple[Array, ...],
    counted: Array,
    quantile: float,
    sigma: float,
    size: tuple[int, int],
) -> tuple[Array, Array, Array, Array]:
    """Returns the sum of the log-maps, its mask, the score and the heat map."""
    whole = scoring.aggregate(maps)
    mask = masks.to_grid(counted, (whole.shape[0], whole.shape[1]))
    score = scoring.image_score(whole, mask, q=quantile)
    return whole, mask, score, scoring.heat_map(whole, mask, size, sigma=sigma)


def score(
    detector: Detector, image: Image, *, shape: tuple[int, int] | None = None
) -> Scored:
    """Says how anomalous an image is, and where.

    Args:
      detector: The detector.
      image: RGB image, 0 to 255, of any size.
      shape: Height and width of the heat map; the image's by default.

    Returns:
      Score, maps and alignment.
    """
    aligned = align_image(detector, image)
    maps = features(detector, aligned)
    shape = tuple(image.shape[:2]) if shape is None else shape
    return summarise(detector, log_maps(detector, maps), aligned, shape)


def features(
    detector: Detector, aligned: Aligned
) -> dict[str, Float[np.ndarray, "_h _w _d"]]:
    """Extracts the feature maps of one image in the frame of the detector.

    Args:
      detector: The detector.
      aligned: The image, from `align_image`.

    Returns:
      Feature maps per layer.
    """
    maps = extraction.extract_batches(detector.backbone, [aligned.image], batch_size=1)
    return {name: value[0] for name, value in maps.items()}
