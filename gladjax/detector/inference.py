"""Scoring one image: align, extract, read off the map, summarise."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax import align, masks, scoring
from gladjax import backbone as backbones
from gladjax import features as extraction
from gladjax.backbone import Backbone
from gladjax.detector.model import Aligned, Detector, Image, Scored
from gladjax.mixture import AnyArray


def align_image(detector: Detector, image: Image) -> Aligned:
    """Brings an image into the frame of the detector.

    Args:
      detector: The detector; its layers are not used.
      image: RGB image, 0 to 255, of any size.

    Returns:
      The image at the backbone's size, aligned if the detector has a reference.
    """
    pixels = resized(detector.backbone, image)
    size = pixels.shape[:2]
    if detector.reference is None:
        return Aligned(pixels, np.ones(size, bool), np.eye(3, dtype=np.float32), None)
    transform, info = align.register(
        detector.reference,
        pixels,
        motion=detector.settings.motion,
        coarse=detector.settings.coarse,
    )
    warped, valid = align.warp(pixels, transform, size)
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


def resized(backbone: Backbone, image: Image) -> np.ndarray:
    """Returns an image at the backbone's size, float32, 0 to 255."""
    return np.asarray(
        backbones.resize(np.asarray(image), size=backbone.image_size), np.float32
    )
