"""Scoring one image: align, extract, read off the map, summarise."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gladjax import align, devices, masks, neighbourhoods, programs, scoring
from gladjax import backbone as backbones
from gladjax import features as extraction
from gladjax.backbone import Backbone
from gladjax.detector import tiles
from gladjax.detector.model import Aligned, Detector, Image, Images, Layer, Scored
from gladjax.images import standard
from gladjax.mixture import AnyArray


def align_image(detector: Detector, image: Image, *, name: str = "image") -> Aligned:
    """Brings an image into the frame of the detector.

    Args:
      detector: The detector; its layers are not used.
      image: RGB image, 0 to 255, of any size and type, see `gladjax.images.standard`.
      name: What errors call it.

    Returns:
      The image at the backbone's size, aligned if the detector has a reference.

    Raises:
      ImageError: If a value is not finite, or the range is another one.
      RuntimeError: In a process that was forked after JAX ran.
    """
    devices.check_process()
    pixels = resized(detector.backbone, image, name)
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


def score(
    detector: Detector, image: Image, *, shape: tuple[int, int] | None = None
) -> Scored:
    """Says how anomalous an image is, and where.

    Args:
      detector: The detector.
      image: RGB image, 0 to 255, of any size and type, see `gladjax.images.standard`.
      shape: Height and width of the heat map; the image's by default.

    Returns:
      Score, maps and alignment.

    Raises:
      ImageError: If a value is not finite, or the range is another one.
    """
    return score_batch(detector, [image], shape=shape)[0]


def score_batch(
    detector: Detector, images: Images, *, shape: tuple[int, int] | None = None
) -> list[Scored]:
    """Says how anomalous several images are, and where.

    Args:
      detector: The detector.
      images: RGB images, 0 to 255, of any sizes. A program is compiled for each number
        of images, so batches of one size are best.
      shape: Height and width of the heat maps; each image's own by default.

    Returns:
      Scores, maps and alignments, in order.

    Raises:
      ImageError: If a value of an image is not finite, or its range is another one.
    """
    if not len(images):
        return []
    many = len(images) > 1

    def seen(i: int, image: Image) -> tuple[Aligned, tuple[int, int]]:
        one = align_image(detector, image, name=f"image {i}" if many else "image")
        return one, (image.shape[0], image.shape[1]) if shape is None else shape

    each = itertools.starmap(seen, enumerate(images))
    given = tiles.plan(detector.backbone, detector.settings)
    if not given.whole:
        return [_in_tiles(detector, given, *one) for one in each]
    found = list(each)
    aligned = [one for one, _ in found]
    batch = backbones.preprocess(detector.backbone, [one.image for one in aligned])
    maps = run(detector.backbone, detector.layers, batch)
    return _scored(detector, maps, aligned, [shape for _, shape in found])


def _in_tiles(
    detector: Detector, given: tiles.Plan, aligned: Aligned, shape: tuple[int, int]
) -> Scored:
    """Scores one image tile by tile: no features outlive their tile."""
    found = (
        (tile, tiles.log_maps(detector.layers, given, tile, maps))
        for tile, maps in tiles.features(detector.backbone, given, aligned.image)
    )
    return summarise(detector, tiles.joined(given, found), aligned, shape)


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
    given = tiles.plan(detector.backbone, detector.settings)
    parts = tiles.features(detector.backbone, given, aligned.image)
    return {n: np.asarray(m) for n, m in tiles.joined(given, parts).items()}


def log_maps(
    detector: Detector, maps: Mapping[str, Float[AnyArray, "_h _w _d"]]
) -> dict[str, Float[Array, "_h _w"]]:
    """Returns the log-probability map of every layer of one image.

    Args:
      detector: The detector.
      maps: Feature maps of one image, per layer.

    Returns:
      One map per layer, on its own grid.
    """
    given = tiles.plan(detector.backbone, detector.settings)
    parts = tiles.cuts(given, maps)
    found = ((t, tiles.log_maps(detector.layers, given, t, m)) for t, m in parts)
    return {n: jnp.asarray(m) for n, m in tiles.joined(given, found).items()}


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
    stacked = {name: jnp.asarray(one)[None] for name, one in maps.items()}
    return _scored(detector, stacked, [aligned], [shape])[0]


def _scored(
    detector: Detector,
    maps: dict[str, Float[Array, "n _h _w"]],
    aligned: list[Aligned],
    shapes: Sequence[tuple[int, int]],
) -> list[Scored]:
    whole, mask, scores, heats = _summarise(
        maps,
        np.asarray(detector.mask)[None] & np.stack([one.valid for one in aligned]),
        detector.settings.quantile,
        detector.settings.sigma,
        tuple(detector.backbone.image_size),
    )
    whole, mask, scores, heats = map(np.asarray, (whole, mask, scores, heats))
    return [
        Scored(
            score=float(scores[i]),
            log_map=whole[i],
            mask=mask[i],
            heat_map=scoring.enlarge(
                np.asarray(placed(detector, aligned[i].transform, heats[i])), shapes[i]
            ),
            alignment=aligned[i],
        )
        for i in range(len(aligned))
    ]


def run(
    backbone: Backbone, layers: dict[str, Layer], batch: Float[AnyArray, "n h w 3"]
) -> dict[str, Float[Array, "n _h _w"]]:
    """Returns the log-probability maps of all layers, of several images.

    One program where images go together. Elsewhere one for the network and one for each
    layer: those that a fit has compiled.

    Args:
      backbone: The network.
      layers: What is known of its layers.
      batch: Preprocessed images.

    Returns:
      The maps, each layer on its own grid.
    """
    return (_together if devices.sizes().together else _apart)(backbone, layers, batch)


def _apart(
    backbone: Backbone, layers: dict[str, Layer], batch: Float[AnyArray, "n h w 3"]
) -> dict[str, Float[Array, "n _h _w"]]:
    maps = extraction.run(backbone, batch)
    return {
        name: scoring.log_prob_maps(layer.mixture, layer.prepared, maps[name])
        for name, layer in layers.items()
    }


_together = programs.Program(_apart)


def read_off(
    maps: Mapping[str, Float[Array, "_h _w"]],
    counted: Bool[AnyArray, "h w"],
    quantile: float,
) -> tuple[Float[Array, "_g _v"], Bool[Array, "_g _v"], Float[Array, ""]]:
    """Returns the sum of the log-maps of an image, the cells that count, its score.

    Args:
      maps: Log-maps of all layers.
      counted: Pixels that count.
      quantile: Quantile of the sum that is the score.
    """
    whole = scoring.aggregate(neighbourhoods.merged(maps))
    mask = masks.to_grid(counted, (whole.shape[0], whole.shape[1]))
    return whole, mask, scoring.image_score(whole, mask, q=quantile)


def located(
    maps: Mapping[str, Float[Array, "_h _w"]],
    mask: Bool[Array, "_g _v"],
    size: tuple[int, int],
    sigma: float,
) -> Float[Array, "h w"]:
    """Returns the heat map of an image in the frame of the detector.

    Args:
      maps: Log-maps of all layers.
      mask: Cells of their sum that count.
      size: Height and width of the image there.
      sigma: Smoothing in pixels.
    """
    sharp = scoring.aggregate(neighbourhoods.own_scale(maps))
    return scoring.heat_map(sharp, mask, size, sigma=sigma)


@functools.partial(programs.Program, static=("quantile", "sigma", "size"))
def _summarise(
    maps: dict[str, Array],
    counted: Bool[Array, "n h w"],
    quantile: float,
    sigma: float,
    size: tuple[int, int],
) -> tuple[Array, Array, Array, Array]:
    """Returns sums of the log-maps, their masks, scores and heat maps."""

    def one(
        parts: dict[str, Array], counted: Array
    ) -> tuple[Array, Array, Array, Array]:
        whole, mask, score = read_off(parts, counted, quantile)
        return whole, mask, score, located(parts, mask, size, sigma)

    if devices.sizes().together:
        return jax.vmap(one)(maps, counted)
    return jax.lax.map(lambda parts: one(*parts), (maps, counted))


def placed(
    detector: Detector, transform: Float[AnyArray, "3 3"], heat: Float[AnyArray, "h w"]
) -> Float[AnyArray, "h w"]:
    """Returns a heat map in the frame of its image.

    Args:
      detector: The detector.
      transform: Motion from the reference's pixels to the image's.
      heat: The map in the frame of the detector.
    """
    if detector.reference is None:
        return heat
    back = align.inverse(jnp.asarray(transform))
    moved, known = align.warp(heat, back, (heat.shape[0], heat.shape[1]))
    return jnp.where(known, moved, jnp.min(heat))


def resized(backbone: Backbone, image: Image, name: str) -> np.ndarray:
    """Returns an image at the backbone's size, float32, 0 to 255.

    Args:
      backbone: The network.
      image: RGB image, 0 to 255.
      name: What errors call it.

    Raises:
      ImageError: If a value is not finite, or the range is another one.
    """
    pixels = standard(np.asarray(image), name=name)
    return np.asarray(backbones.resize(pixels, size=backbone.image_size), np.float32)
