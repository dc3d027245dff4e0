"""Learning from images of good products."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from gladjax import cache, covariance, em, kmle, masks, neighbourhoods
from gladjax.backbone import Backbone
from gladjax.covariance import Shrinkage
from gladjax.detector import augment, left_out, tiles
from gladjax.detector.collecting import collect, on_grid, suited
from gladjax.detector.inference import resized
from gladjax.detector.layers import Clock, Learnt, kept, learn, spread
from gladjax.detector.model import (
    Detector,
    FitInfo,
    Image,
    Images,
    Progress,
    Settings,
    check,
)
from gladjax.mixture import AnyArray

Monitor = Callable[[kmle.Snapshot | em.Snapshot], None] | None


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
      images: RGB images, 0 to 255, of any sizes; a lazy sequence is read once, but for
        the first ones where a reference is chosen.
      settings: Everything that is a number.
      mask: Pixels that count, at the backbone's image size; all but
        ``settings.margin`` by default.
      reference: The image to align with; by default the one among the first 24 on
        which the others are registered best (`gladjax.align.choose_reference`).
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
      progress: Called as things go on; the stages of a fit that tries copies
        (``settings.augment``) have names of their own, ``copies: ...``.

    Returns:
      The detector and the report.

    Raises:
      ValueError: If there is no image or an option does not fit.
    """
    cache.release_programs()
    settings = Settings() if settings is None else settings
    if len(images) == 0:
        raise ValueError("there is no image to learn from")
    check(dataclasses.asdict(settings))
    _check(settings, folds)
    fit_once = functools.partial(
        _fit_once, key, backbone, images, mask, reference, shrinkage, folds
    )
    first = fit_once(settings, progress, None)
    assert first is not None
    fitted, report, alone = first
    asked = settings.augment == "auto" and not settings.motion
    if not asked or report.kept is None or report.kept >= settings.min_kept:
        return fitted, report

    def tell(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{augment.COPIES}{stage}", done, total)

    shares: dict[str, float] = {}

    def may_be_taken(name: str, one: Learnt) -> bool:
        ways = [
            _means(maps) for maps in (one.alone, one.everywhere) if maps is not None
        ]
        shares[name] = max(augment.likelier(alone[name], way) for way in ways)
        return shares[name] >= augment.MOST

    # Local weights do not hold: things lie anyhow, or images are too few.
    begun = time.perf_counter()
    turned = dataclasses.replace(settings, augment=augment.TRIED)
    other = fit_once(turned, tell, may_be_taken)
    seconds = {**report.seconds, "copies": time.perf_counter() - begun}
    if other is not None:
        shares = {
            name: augment.likelier(alone[name], v) for name, v in other[2].items()
        }
        if min(shares.values()) >= augment.MOST:
            fitted, report, _ = other
    share = min(shares.values())
    return fitted, report._replace(likelier=share, seconds=seconds)


def _fit_once(  # noqa: PLR0913 - what `fit_info` is given
    key: Key[Array, ""],
    backbone: Backbone,
    images: Images,
    mask: Bool[AnyArray, "h w"] | None,
    reference: Image | None,
    shrinkage: Shrinkage,
    folds: int,
    settings: Settings,
    progress: Progress | None,
    go_on: Callable[[str, Learnt], bool] | None,
) -> tuple[Detector, FitInfo, dict[str, np.ndarray]] | None:
    """Fits, and tries nothing else.

    Returns:
      The detector, the report, and for every layer the mean log-probability of the
      images left out; None where it is not worth going on after a layer.
    """
    side, finest = settings.neighbourhood, settings.finest
    backbone = neighbourhoods.seen(backbone, side, finest=finest)
    tiles.plan(backbone, settings)  # Refuses what does not divide.
    size = backbone.image_size
    if mask is None:
        mask = masks.margin(size, fraction=settings.margin)
    mask = jnp.asarray(mask)
    if mask.shape != tuple(size):
        raise ValueError(f"mask must be of shape {tuple(size)}, not {mask.shape}")
    frame = number = None
    if settings.motion and reference is None:
        number, frame = suited(key, backbone, images, settings)
    elif settings.motion:
        number, frame = 0, resized(backbone, reference, "reference")
    blank = Detector(backbone, {}, np.asarray(mask), frame, None, settings)
    clock = Clock()
    maps, valid, aligned = collect(blank, images, progress)
    clock.stop("features")
    places = left_out.deal(len(images), folds, never=number)
    told = _Teller(progress, settings.max_steps, backbone.layers)
    how = (shrinkage, places)
    learnt = learn_layers(key, blank, maps, valid, how, told.of, clock, go_on=go_on)
    if len(learnt) < len(backbone.layers):
        return None
    detector, learnt, share = settled(blank, learnt)
    alone = {n: one.alone for n, one in learnt.items() if one.alone is not None}
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
        kept=share,
        likelier=None,
        left_out=scores,
        seconds=clock.seconds,
    )
    return detector, report, {name: _means(one) for name, one in alone.items()}


def learn_layers(
    key: Key[Array, ""],
    blank: Detector,
    maps: Mapping[str, np.ndarray],
    valid: Sequence[np.ndarray],
    how: tuple[Shrinkage, np.ndarray],
    told: Callable[[str], Monitor],
    clock: Clock,
    *,
    go_on: Callable[[str, Learnt], bool] | None = None,
) -> dict[str, Learnt]:
    """Learns all layers from features.

    Args:
      key: Randomness.
      blank: The detector without its layers.
      maps: Feature maps of the training images.
      valid: Pixels that count, a mask for each image, or one for all.
      how: Shrinkage, and the fold of each image (`left_out.deal`).
      told: From a layer to what is called after every step of its mixture.
      clock: Told of every stage.
      go_on: Asked after each layer whether the next is to be learnt.

    Returns:
      What was learnt of each layer, of those before it where one was the last.
    """
    names = blank.backbone.layers
    learnt: dict[str, Learnt] = {}
    for name, own in zip(names, jax.random.split(key, len(names)), strict=True):
        keep = on_grid(valid, maps[name])
        full = (blank.settings, *how)
        learnt[name] = learn(own, maps[name], keep, full, told(name), clock)
        if go_on is not None and not go_on(name, learnt[name]):
            break
    return learnt


def settled(
    blank: Detector, learnt: dict[str, Learnt]
) -> tuple[Detector, dict[str, Learnt], float | None]:
    """Returns the detector, with global weights where local ones do not hold.

    Args:
      blank: The detector without its layers.
      learnt: What was learnt of each layer.

    Returns:
      The detector; what was learnt of its layers; and the share of what local weights
      tell that holds for images left out (`layers.kept`).
    """
    share = kept(learnt.values())
    if share is not None and share < blank.settings.min_kept:
        settings = dataclasses.replace(blank.settings, local=False)
        blank = dataclasses.replace(blank, settings=settings)
        learnt = {name: spread(one, settings) for name, one in learnt.items()}
    layers = {name: one.layer for name, one in learnt.items()}
    return dataclasses.replace(blank, layers=layers), learnt, share


def _means(maps: np.ndarray) -> np.ndarray:
    """Returns the mean of each image's log-map, NaN where there is none."""
    return np.mean(maps, axis=(1, 2))


def _check(settings: Settings, folds: int) -> None:
    if settings.num_components < 1 and settings.estimator != "kmle":
        raise ValueError("the estimator em needs a number of components")
    if folds and settings.estimator != "kmle":
        raise ValueError("leaving images out needs the estimator kmle")


class _Teller:
    """Tells of the steps of all mixtures together."""

    def __init__(
        self, progress: Progress | None, max_steps: int, layers: Sequence[str]
    ) -> None:
        self._progress, self._total = progress, max_steps * len(layers)
        self._steps = dict.fromkeys(layers, 0)

    def of(self, layer: str) -> Monitor:
        if self._progress is None:
            return None
        tell = self._progress

        def monitor(snapshot: kmle.Snapshot | em.Snapshot) -> None:
            self._steps[layer] = snapshot.iteration
            tell("mixtures", sum(self._steps.values()), self._total)

        return monitor
